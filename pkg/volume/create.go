package volume

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// umask is what the kernel takes from the modes of new files. It can be read only by setting it, so this is done once,
// before anything runs; nothing in the agent changes it.
var umask = func() fs.FileMode {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return fs.FileMode(mask)
}()

// owner is a user and a group; -1 leaves the agent's.
type owner struct{ uid, gid int }

// createFile makes a file below the directory dir, through no symbolic link. flags are O_EXCL or O_TRUNC, for a file
// that is there already. It does not sync: what it is for does not outlive the kernel.
//
// Publishing is little else than this, so it makes the system calls itself. With an os.File there are six more for each
// file, which find out that it can't be polled.
func createFile(dir int, path string, flags uint64, mode fs.FileMode, o owner, data []byte) error {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC | flags,
		Mode:    uint64(mode.Perm()),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	err = writeAll(fd, data)
	if err == nil && o != (owner{-1, -1}) {
		err = unix.Fchown(fd, o.uid, o.gid)
	}
	if err == nil && mode&umask != 0 {
		err = unix.Fchmod(fd, uint32(mode.Perm()))
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
