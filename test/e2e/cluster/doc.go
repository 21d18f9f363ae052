// Package cluster runs a real Kubernetes of one node for tests: etcd, the API server, the controller manager, the
// scheduler, kube-proxy, the kubelet, containerd and runc, as Build makes them from the Go modules below this directory.
// It needs Linux, root and version 1 control groups; it needs no Docker, no systemd, no registry and no network.
//
// A cluster is one process, with namespaces of its own for processes, mounts, network, control groups, IPC and host name.
// In them that process is number 1 and everything else in the cluster is its descendant, so that its end, in whatever
// way, ends them all. It watches a pipe that the process which called Start holds open, and ends when that one does. What
// the kernel does not clear away, which is the control groups and the directory, a second process does: the janitor,
// which outlives the first for that purpose.
//
// Nothing leaves the cluster's namespaces: the network has no link to the outside, /run, /sys and /var are private, and
// the kernel settings that a kubelet insists on appear to it as it wants them but are not changed. Any number of
// clusters can run side by side, under different names; they use the same addresses.
//
// A program that calls Start must run under Main, since the two processes above are the same program started again.
package cluster
