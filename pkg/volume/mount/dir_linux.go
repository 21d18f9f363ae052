package mount

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dir is a handle on a directory, which system calls can go through. It neither reads nor lists by itself. The zero Dir
// is none.
type Dir struct{ fd int }

// OpenDir returns a handle on the directory at path, whatever the path leads through.
func OpenDir(path string) (Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Dir{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return Dir{fd}, nil
}

// Fd is the file descriptor, for system calls that end in "at". It belongs to the Dir.
func (d Dir) Fd() int { return d.fd }

// Root opens the same directory for everything that an os.Root does. The caller closes it.
func (d Dir) Root() (*os.Root, error) { return os.OpenRoot(procPath(d.fd)) }

// Close gives the handle back.
func (d Dir) Close() error { return os.NewSyscallError("close", unix.Close(d.fd)) }

// procPath is a path that leads to fd whatever happens to the names on the way to it.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
