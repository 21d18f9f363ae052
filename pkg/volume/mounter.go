package volume

import (
	"github.com/keywell/keywell/pkg/volume/mount"
)

// Mounter gives volumes their filesystems; *mount.Mounter is one.
type Mounter interface {
	// Mount makes a tmpfs, lets fill write into it, and only then makes it visible at target, whose parent exists. When
	// it fails, nothing of it is left. It does not mount over another mount.
	Mount(target string, opts mount.Options, fill func(dir mount.Dir, device uint64) error) error
	// Open returns a handle on what Mount made. The error is mount.ErrNotMounted if there is nothing. The caller closes
	// the handle.
	Open(target string) (mount.Dir, mount.Info, error)
	// Unmount removes what Mount made, however often it was mounted, and the target directory if it is empty then.
	// Nothing to remove is no error.
	Unmount(target string) error
}
