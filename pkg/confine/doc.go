// Package confine gives up what a process may do and does not need to: capabilities, those of programs that it might
// execute, and its memory being seen in a core dump or by a debugger.
//
// Kubernetes allows mounts that appear on the node to privileged containers only, and container runtimes give these every
// capability whatever their manifest says. So the agent gives up itself what it was not meant to have, before it does
// anything else. A capability belongs to a thread, and a Go program has many from its first instruction on: confine
// changes one and executes the program again on it, after which there is no thread that has more. That holds with and
// without cgo, as syscall.AllThreadsSyscall does not.
//
// Only cmd/agent calls it. It refuses to go on where it can't keep its promise.
package confine
