package volume

import (
	"github.com/keywell/keywell/pkg/volume/mount"
)

// Mounter gives volumes their filesystems; *mount.Mounter is one.
type Mounter interface {
	// Prepare opens the place for a new mount. The error is mount.ErrOccupied if something is mounted there. The caller
	// closes the place.
	Prepare(target string) (mount.Place, error)
	// Open returns a handle on what was mounted on target. The error is mount.ErrNotMounted if there is nothing. The caller closes
	// the handle.
	Open(target string) (mount.Dir, mount.Info, error)
	// Unmount removes what a Place mounted, however often it was mounted, and the target directory if it is empty then.
	// Nothing to remove is no error.
	Unmount(target string) error
}
