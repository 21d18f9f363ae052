package volume

import (
	"errors"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/volume/mount"
)

// Publishing is little else than the system calls below, so they are made directly, through the handle of a directory
// (dir) and through no symbolic link. An os.Root opens the directories on the way for each, and an os.File makes six more
// calls for each file, which find out that it can't be polled.

// umask is what the kernel takes from the modes of new files. It can be read only by setting it, so this is done once,
// before anything runs; nothing in the agent changes it.
var umask = func() fs.FileMode {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return fs.FileMode(mask)
}()

// owner is a user and a group; -1 leaves the agent's.
type owner struct{ uid, gid int }

// createFile makes a file below the directory dir, through no symbolic link. It does not sync: what it is for does not
// outlive the kernel.
func createFile(dir int, path string, mode fs.FileMode, o owner, data []byte) error {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC | unix.O_CREAT | unix.O_EXCL,
		Mode:    uint64(mode.Perm()),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return pathError("open", path, err)
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

// makeDir makes a directory with mode dirMode; its parent is there.
func makeDir(dir int, name string) error {
	if parent, last := path.Split(name); parent != "" {
		fd, err := openDir(dir, path.Clean(parent))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dir, name = fd, last
	}
	err := unix.Mkdirat(dir, name, dirMode)
	if err == nil && dirMode&umask != 0 {
		err = unix.Fchmodat(dir, name, dirMode, 0)
	}
	return pathError("mkdir", name, err)
}

// openDir opens a directory for system calls to go through. The caller closes it.
func openDir(dir int, name string) (int, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	return fd, pathError("open", name, err)
}

func makeLink(dir int, name, to string) error {
	return pathError("symlink", name, unix.Symlinkat(to, dir, name))
}

func rename(dir int, from, to string) error {
	return pathError("rename", from, unix.Renameat(dir, from, dir, to))
}

func unlink(dir int, name string) error {
	return pathError("unlink", name, unix.Unlinkat(dir, name, 0))
}

// readLink returns where a symbolic link leads, as far as it has room: what is longer was not made here.
func readLink(dir int, name string) (string, error) {
	var to [255]byte
	n, err := unix.Readlinkat(dir, name, to[:])
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return string(to[:n]), nil
}

// removeAll removes a directory and everything in it.
func removeAll(dir mount.Dir, name string) error {
	root, err := dir.Root()
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(name), root.Close())
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
