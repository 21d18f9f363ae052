package mount

import "errors"

// ErrNotMounted is returned when no filesystem is mounted on a target, or the target does not exist.
var ErrNotMounted = errors.New("target is not mounted")

// ErrForeign is returned when something is mounted on a target that this package can't have mounted.
var ErrForeign = errors.New("target has a mount that is not a keywell volume")

// ErrBadTarget is returned for a target path that is not below one of the roots, leads through a symbolic link, or has
// no parent directory.
var ErrBadTarget = errors.New("target path is not acceptable")

// Options describe a tmpfs.
type Options struct {
	Size    int64  // limit in bytes, more than zero
	Inodes  int64  // limit of files, directories and links, more than zero
	Context string // SELinux context of everything in it; empty: the policy's default
}

// Info describes a mounted tmpfs.
type Info struct {
	// Device is the tmpfs' device number. It tells one tmpfs from another for as long as either exists, in every mount
	// namespace; mount IDs differ between namespaces, and a restarted agent has a new one.
	Device                  uint64
	UsedBytes, TotalBytes   int64
	UsedInodes, TotalInodes int64
}
