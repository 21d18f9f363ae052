// Package cri knows the pod sandboxes of this node, from the container runtime: which there are, and where their network
// namespaces are. It speaks the kubelet's own protocol, the CRI (k8s.io/cri-api), on the runtime's socket, and asks
// containerd and CRI-O alike. Package localhost is who wants to know.
//
// It promises to follow the runtime's events rather than to ask again and again, to know a sandbox before the runtime
// has answered the kubelet's request for it, to start anew when the runtime does, and to take events as fast as they
// come: containerd makes no sandbox while somebody who asked for events does not read them.
//
// It only reads. But whoever can write to that socket is root on the node, so nothing else of the agent has it.
package cri
