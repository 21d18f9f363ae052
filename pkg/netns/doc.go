// Package netns opens sockets in other network namespaces. A socket belongs for good to the namespace that it was made
// in, whoever holds it: a process can listen on the loopback address of a pod without anything running there.
//
// The package promises that no thread which is in a foreign namespace ever runs anything else: a thread goes there
// locked to one goroutine, makes the sockets, and comes back; one that can't come back ends. It is the main thread in no
// case, because that one can't end. Nothing is executed, and only the system calls that make sockets happen there.
//
// A listener on a loopback address takes connections by the loopback interface only. The address alone would be no
// promise: see onLoopback.
//
// It refuses what is not a network namespace, whatever the path says, and the process' own, which is no pod's.
//
// A listener keeps its namespace alive, as does every connection that it accepted: who listens here has to close both
// when the pod goes. Package localhost does. CAP_SYS_ADMIN is needed.
package netns

import "errors"

// ErrOwn is returned for the namespace that the process itself is in. In Kubernetes, where the agent is in the node's
// network, it is that of the pods that are, too.
var ErrOwn = errors.New("it is the network namespace of the agent itself")

// ErrGone is returned for a path at which there is no network namespace (any more).
var ErrGone = errors.New("there is no network namespace")
