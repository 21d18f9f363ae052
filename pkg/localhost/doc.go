// Package localhost gives pods the secrets API on http://localhost:3500, without a sidecar: it listens in the network
// namespaces of pods that are to have it. What comes in there is the pod's own call, whatever it says of itself, since
// nothing outside of the pod reaches its loopback addresses.
//
// Set makes what is equal to what should be, each time something has changed: which sandboxes the container runtime has
// (package cri) and what the pods wish (package main knows). So a pod's listeners come with its sandbox, go with it, and
// come again with another, or with another agent.
//
// It promises:
//
//   - The listeners are on 127.0.0.1 and, where the pod has it, ::1: on both or none, for HTTP and gRPC or neither.
//   - A port that the pod has is left alone: it is reported, not tried again. A pod that is in the node's network gets
//     no listener, and is told why.
//   - When a sandbox has stopped, its listeners and connections are closed at once, so that its namespace can end.
//   - A pod whose namespace the runtime is slow to name, or does not, keeps no other waiting.
package localhost
