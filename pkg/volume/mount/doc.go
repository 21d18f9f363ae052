// Package mount gives volumes their tmpfs, by direct Linux system calls.
//
// A tmpfs is made detached (fsopen, fsmount), filled while no path leads to it, and attached to its target with one
// system call (move_mount), so it becomes visible complete. Targets are hostile until opened: they are resolved below
// configured roots, through directory handles and no symbolic link, and mounts are made and removed through these
// handles. Whether a target is mounted is one statx and one statfs, never a walk of mountinfo.
//
// Linux 5.8 is needed (openat2, and statx telling mount roots) and /proc must be mounted. The types are there on every
// system; Mounter is not, so that a program that needs it does not compile where it could not work.
package mount
