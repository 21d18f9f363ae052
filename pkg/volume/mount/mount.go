package mount

import "errors"

// ErrNotMounted is returned when nothing is mounted on a target, or the target does not exist.
var ErrNotMounted = errors.New("target is not mounted")

// ErrOccupied is returned when something is mounted on a target that must be free, or that Place.Mount can't have put there.
var ErrOccupied = errors.New("something else is mounted on the target")

// ErrBadTarget is returned for a target path that is not below one of the roots, is not in its shortest form, leads
// through a symbolic link, or has no parent directory.
var ErrBadTarget = errors.New("target path is not acceptable")

// Options describe a tmpfs.
type Options struct {
	Size    int64  // limit in bytes, more than zero
	Inodes  int64  // limit of files, directories and links, more than zero
	Context string // SELinux context of everything in it; empty: the policy's default
}

// Info describes a mounted tmpfs.
type Info struct {
	// Device is the tmpfs' device number. It tells one tmpfs from another for as long as either exists, and is the same
	// in every mount namespace. (Mount IDs are not, and a restarted agent may be in a new namespace.)
	Device                  uint64
	UsedBytes, TotalBytes   int64
	UsedInodes, TotalInodes int64
}

// Place is a target on which nothing was mounted when Mounter.Prepare opened it. It is good for one mount.
type Place interface {
	// Mount makes a tmpfs, lets fill write into it, and only then makes it visible at the target. fill is lent the tmpfs'
	// root directory and told its device number (see Info); until it has returned, nothing of the mount is on the node.
	// The target directory is created if need be, with mode 0750. When Mount fails, nothing of it is left. A target that
	// has become a mount point is ErrOccupied.
	Mount(opts Options, fill func(dir Dir, device uint64) error) error
	// Close gives the place back; what was mounted stays.
	Close() error
}
