// Package origin knows whose connections it accepts: each pod has sockets of its own, which nobody but the pod can reach,
// so that where a connection came in proves who made it. A Listener gathers the sockets of all pods for one server, and
// the remote address of a connection that it accepts is an *Addr, which no client can choose.
//
// It promises that a socket is one goroutine and nothing more, that a pod which connects without end holds up itself and
// nobody else, and that a pod's connections end with its sockets: neither a namespace nor a tmpfs outlives its pod
// because somebody forgot to hang up.
//
// Package localhost makes sockets in the network namespaces of pods, and package volume has some in volumes; package api
// serves what comes in.
package origin
