package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// source is what the mount table shows as the origin of our mounts.
const source = "keywell"

// restrictions are set on every mount, and tell our mounts from most others.
const (
	mountAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	statFlags  = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
)

// Mounter makes and removes tmpfs mounts below its roots. It is safe for concurrent use.
type Mounter struct {
	roots []string
	// swapped is set once the kernel has refused noswap: it is older than 6.4, or we are in a user namespace.
	swapped atomic.Bool
}

// New returns a Mounter for targets below roots, which are absolute paths in their shortest form. The roots themselves
// are trusted and may lead through symbolic links. It fails on a kernel that can't do what the package needs.
func New(roots ...string) (*Mounter, error) {
	if len(roots) == 0 {
		return nil, errors.New("no root directory for mounts")
	}
	for _, r := range roots {
		if !filepath.IsAbs(r) || filepath.Clean(r) != r {
			return nil, fmt.Errorf("root %q is not an absolute path in its shortest form", r)
		}
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/", 0, 0, &st); err != nil {
		return nil, fmt.Errorf("statx: %w", err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return nil, errors.New("the kernel does not tell mount points: Linux 5.8 or later is needed")
	}
	return &Mounter{roots: slices.Clone(roots)}, nil
}

// Prepare opens the place of a mount, whose parent directory must exist. A target that is a mount point is ErrOccupied.
func (m *Mounter) Prepare(target string) (Place, error) {
	parent, name, err := m.openParent(target)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", target, err)
	}
	p := &place{mounter: m, target: target, parent: parent, name: name}
	if err := p.free(); err != nil {
		unix.Close(parent)
		return nil, fmt.Errorf("prepare %q: %w", target, err)
	}
	return p, nil
}

// place is a target by its parent directory and its name there.
type place struct {
	mounter *Mounter
	target  string
	parent  int
	name    string
}

// free checks that nothing is mounted on the target, which need not be there.
func (p *place) free() error {
	dir, err := openBeneath(p.parent, p.name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return isFree(dir)
}

// isFree checks that fd is not the root of a mount.
func isFree(fd int) error {
	switch _, err := inspect(fd); {
	case err == nil:
		return ErrOccupied
	case !errors.Is(err, ErrNotMounted):
		return err
	}
	return nil
}

// Mount is Place's. The root directory of the tmpfs has mode 0755 and belongs to the process' user.
func (p *place) Mount(opts Options, fill func(dir Dir, device uint64) error) error {
	tmpfs, err := p.mounter.newTmpfs(opts)
	if err != nil {
		return fmt.Errorf("mount %q: %w", p.target, err)
	}
	defer unix.Close(tmpfs) // ends a mount that was not attached
	if err := fillTmpfs(tmpfs, fill); err != nil {
		return fmt.Errorf("mount %q: %w", p.target, err)
	}
	if err := attach(tmpfs, p.parent, p.name); err != nil {
		return fmt.Errorf("mount %q: %w", p.target, err)
	}
	return nil
}

// Close is Place's.
func (p *place) Close() error { return os.NewSyscallError("close", unix.Close(p.parent)) }

func fillTmpfs(tmpfs int, fill func(dir Dir, device uint64) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(tmpfs, &st); err != nil {
		return fmt.Errorf("stat tmpfs: %w", err)
	}
	return fill(Dir{tmpfs}, st.Dev)
}

// attach moves tmpfs onto the directory name below parent, which it creates if need be. A directory that it has created has
// nothing mounted on it, and no symbolic link is followed; one that was there is looked at first.
func attach(tmpfs, parent int, name string) error {
	switch made := unix.Mkdirat(parent, name, 0o750); {
	case made == nil:
		err := unix.MoveMount(tmpfs, "", parent, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil {
			return errors.Join(fmt.Errorf("attach tmpfs: %w", err), unix.Unlinkat(parent, name, unix.AT_REMOVEDIR))
		}
		return nil
	case !errors.Is(made, unix.EEXIST):
		return fmt.Errorf("create target: %w", made)
	}
	dir, err := openBeneath(parent, name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := isFree(dir); err != nil {
		return err
	}
	err = unix.MoveMount(tmpfs, "", dir, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach tmpfs: %w", err)
	}
	return nil
}

// newTmpfs returns the handle of a detached tmpfs.
func (m *Mounter) newTmpfs(opts Options) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open tmpfs context: %w", err)
	}
	defer unix.Close(fs)
	params := [][2]string{
		{"source", source},
		{"mode", "0755"},
		{"size", strconv.FormatInt(opts.Size, 10)},
		{"nr_inodes", strconv.FormatInt(opts.Inodes, 10)},
	}
	if opts.Context != "" {
		params = append(params, [2]string{"context", opts.Context})
	}
	for _, p := range params {
		if err := unix.FsconfigSetString(fs, p[0], p[1]); err != nil {
			return -1, fmt.Errorf("set tmpfs option %s=%s: %w", p[0], p[1], err)
		}
	}
	if err := m.setNoswap(fs); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create tmpfs: %w", err)
	}
	tmpfs, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, mountAttrs)
	if err != nil {
		return -1, fmt.Errorf("create tmpfs mount: %w", err)
	}
	return tmpfs, nil
}

// setNoswap keeps the pages out of swap where the kernel can do so. It has to be asked before the tmpfs is created: a
// remount can't add it.
func (m *Mounter) setNoswap(fs int) error {
	if m.swapped.Load() {
		return nil
	}
	err := unix.FsconfigSetFlag(fs, "noswap")
	if errors.Is(err, unix.EINVAL) {
		m.swapped.Store(true)
		return nil
	}
	if err != nil {
		return fmt.Errorf("set tmpfs option noswap: %w", err)
	}
	return nil
}

// Open returns a handle on the tmpfs that was mounted on target, or ErrNotMounted, or ErrOccupied if it is none of ours.
// The caller closes the handle; an open one keeps the tmpfs in memory after Unmount.
func (m *Mounter) Open(target string) (Dir, Info, error) {
	fd, err := m.openTarget(target)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = ErrNotMounted
		}
		return Dir{}, Info{}, fmt.Errorf("open %q: %w", target, err)
	}
	info, err := inspect(fd)
	if err != nil {
		unix.Close(fd)
		return Dir{}, Info{}, fmt.Errorf("open %q: %w", target, err)
	}
	return Dir{fd}, info, nil
}

// Unmount removes every tmpfs that is mounted on target, and then the directory. A directory that holds anything is
// kept: the mount had hidden it, so it is not ours. Nothing to remove is no error. Files that somebody has open stay
// readable for them, and in memory, until they are closed.
func (m *Mounter) Unmount(target string) error {
	parent, name, err := m.openParent(target)
	if err == nil {
		defer unix.Close(parent)
		err = unmountAll(parent, name)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %q: %w", target, err)
	}
	return nil
}

// unmountAll removes the mounts on name, one after another, and the directory. That the directory is busy says that
// there is one more.
func unmountAll(parent int, name string) error {
	for {
		unmounted := unmountTop(parent, name)
		if unmounted != nil && !errors.Is(unmounted, ErrNotMounted) {
			return unmounted
		}
		switch err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); {
		case err == nil, errors.Is(err, unix.ENOTEMPTY):
			return nil
		case !errors.Is(err, unix.EBUSY) || unmounted != nil:
			return fmt.Errorf("remove target: %w", err)
		}
	}
}

// unmountTop removes the topmost mount, or returns ErrNotMounted. It detaches: the handle that it goes through, so that
// nobody can put another mount in the way, makes the mount busy by itself.
func unmountTop(parent int, name string) error {
	fd, err := openBeneath(parent, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := inspect(fd); err != nil {
		return err
	}
	return unix.Unmount(procPath(fd), unix.MNT_DETACH)
}

// openTarget opens target itself: its topmost mount, if it is a mount point.
func (m *Mounter) openTarget(target string) (int, error) {
	parent, name, err := m.openParent(target)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	return openBeneath(parent, name)
}

// openParent opens the directory that target is in, and returns target's name there.
func (m *Mounter) openParent(target string) (fd int, name string, err error) {
	root, rel, err := m.locate(target)
	if err != nil {
		return -1, "", err
	}
	fd, err = unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", fmt.Errorf("%w: open root %q: %w", ErrBadTarget, root, err)
	}
	dir, name := filepath.Split(rel)
	if dir == "" {
		return fd, name, nil
	}
	defer unix.Close(fd)
	parent, err := openBeneath(fd, filepath.Clean(dir))
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: its parent directory does not exist: %w", ErrBadTarget, err)
	}
	return parent, name, err
}

// locate returns the root that target is below, and the path from there.
func (m *Mounter) locate(target string) (root, rel string, err error) {
	if filepath.Clean(target) == target {
		for _, root := range m.roots {
			rel, ok := strings.CutPrefix(target, strings.TrimSuffix(root, "/")+"/")
			if ok && rel != "" {
				return root, rel, nil
			}
		}
	}
	return "", "", fmt.Errorf("%w: it must be below %s, in its shortest form", ErrBadTarget, strings.Join(m.roots, " or "))
}

// openBeneath opens a directory below dir, through no symbolic link.
func openBeneath(dir int, path string) (int, error) {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EXDEV):
		return -1, fmt.Errorf("%w: it leads through a link or a file: %w", ErrBadTarget, err)
	case err != nil:
		return -1, fmt.Errorf("open directory: %w", err)
	}
	return fd, nil
}

// inspect describes the tmpfs whose root fd is. The error is ErrNotMounted if fd is not the root of a mount, and
// ErrOccupied if it is the root of one that we don't make.
func inspect(fd int) (Info, error) {
	var stx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, 0, &stx); err != nil {
		return Info{}, fmt.Errorf("statx: %w", err)
	}
	if stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return Info{}, ErrNotMounted
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return Info{}, fmt.Errorf("statfs: %w", err)
	}
	if int64(st.Type) != unix.TMPFS_MAGIC || st.Flags&statFlags != statFlags {
		return Info{}, ErrOccupied
	}
	return Info{
		Device:      unix.Mkdev(stx.Dev_major, stx.Dev_minor),
		UsedBytes:   int64(st.Blocks-st.Bfree) * int64(st.Bsize),
		TotalBytes:  int64(st.Blocks) * int64(st.Bsize),
		UsedInodes:  int64(st.Files - st.Ffree),
		TotalInodes: int64(st.Files),
	}, nil
}
