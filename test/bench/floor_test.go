package bench_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The floor of a volume is what a program would do that knows no secrets, no policy and no crash: mount a tmpfs, write
// the same files, unmount.

// bareFiles are files in a directory.
type bareFiles struct {
	dir   string
	paths []string
	data  []byte
}

func newBareFiles(dir string, count int) *bareFiles {
	f := &bareFiles{dir: filepath.Join(dir, "bare"), data: make([]byte, valueBytes)}
	for i := range count {
		f.paths = append(f.paths, filepath.Join(f.dir, secretName(i)))
	}
	return f
}

// publish mounts a tmpfs and writes the files.
func (f *bareFiles) publish() error {
	if err := unix.Mkdir(f.dir, 0o750); err != nil {
		return err
	}
	if err := unix.Mount("floor", f.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=16m"); err != nil {
		return err
	}
	for _, path := range f.paths {
		if err := writeBare(path, unix.O_CREAT|unix.O_EXCL, f.data); err != nil {
			return err
		}
	}
	return nil
}

// unpublish undoes publish.
func (f *bareFiles) unpublish() error {
	if err := unix.Unmount(f.dir, unix.UMOUNT_NOFOLLOW); err != nil {
		return err
	}
	return unix.Rmdir(f.dir)
}

// cycle does both.
func (f *bareFiles) cycle() error {
	return errors.Join(f.publish(), f.unpublish())
}

// rewrite replaces every file by a new one.
func (f *bareFiles) rewrite() error {
	for _, path := range f.paths {
		next := path + ".new"
		if err := writeBare(next, unix.O_CREAT|unix.O_EXCL, f.data); err != nil {
			return err
		}
		if err := unix.Rename(next, path); err != nil {
			return err
		}
	}
	return nil
}

func writeBare(path string, flags int, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0o444)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, data)
	if err == nil && n < len(data) {
		err = fmt.Errorf("%s: short write", path)
	}
	return errors.Join(err, unix.Close(fd))
}

// mountScratch mounts a tmpfs on dir.
func mountScratch(dir string) error {
	return os.NewSyscallError("mount", unix.Mount("scratch", dir, "tmpfs", 0, "mode=0755"))
}

// removeScratch unmounts everything on and below dir, however it came there, and removes dir.
func removeScratch(dir string) error {
	return errors.Join(os.NewSyscallError("umount", unix.Unmount(dir, unix.MNT_DETACH)), os.Remove(dir))
}
