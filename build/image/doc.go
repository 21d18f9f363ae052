// Command image writes the agent's image as an OCI archive: the agent, which is one static program, the root
// certificates that it trusts, and nothing else. No Docker and no registry is needed; containerd imports the archive
// (ctr -n k8s.io images import), and skopeo copies it to a registry.
//
// The same agent gives the same bytes on every machine. For this the certificates come from a Go module, whose content
// go.sum pins, instead of from the machine that builds. They are Mozilla's; one that Mozilla trusts under a condition
// only is left out, because a file can't say the condition. With -certificates the program writes only them, for
// images that are built in other ways.
//
// The image's user is root: the agent mounts file systems, and its sockets and state belong to root on the node. What
// it may do beyond that is for the DaemonSet to say.
package main
