package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/volume/mount"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// newMounter returns a Mounter for a new directory, whose mounts are gone when the test ends.
func newMounter(t testing.TB) (*mount.Mounter, string) {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	m, err := mount.New(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, err := os.ReadDir(root)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			for unix.Unmount(filepath.Join(root, e.Name()), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
			}
		}
	})
	return m, root
}

// mountAt does all that it takes to mount.
func mountAt(m *mount.Mounter, target string, opts mount.Options, fill func(mount.Dir, uint64) error) error {
	place, err := m.Prepare(target)
	if err != nil {
		return err
	}
	return errors.Join(place.Mount(opts, fill), place.Close())
}

var small = mount.Options{Size: 64 << 10, Inodes: 16}

func fillWith(name, content string) func(mount.Dir, uint64) error {
	return func(d mount.Dir, _ uint64) error { return write(d, name, content) }
}

func write(d mount.Dir, name, content string) error {
	r, err := d.Root()
	if err != nil {
		return err
	}
	return errors.Join(r.WriteFile(name, []byte(content), 0o444), r.Close())
}

func empty(mount.Dir, uint64) error { return nil }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestMountIsSeenOnlyWhenFull(t *testing.T) {
	m, root := newMounter(t)
	target := filepath.Join(root, "v")
	var told uint64
	err := mountAt(m, target, small, func(d mount.Dir, device uint64) error {
		told = device
		if err := write(d, "a", "x"); err != nil {
			return err
		}
		if exists(t, filepath.Join(target, "a")) {
			t.Error("the file is visible before the mount is complete")
		}
		if _, _, err := m.Open(target); !errors.Is(err, mount.ErrNotMounted) {
			t.Errorf("open while filling: %v, want ErrNotMounted", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(target, "a")); got != "x" {
		t.Errorf("file holds %q", got)
	}
	d, info, err := m.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info.Device != told {
		t.Errorf("open says device %d, fill was told %d", info.Device, told)
	}
	if info.TotalBytes != small.Size || info.TotalInodes != small.Inodes || info.UsedBytes == 0 || info.UsedInodes != 2 {
		t.Errorf("info is %+v", info)
	}
	if err := write(d, "b", "y"); err != nil {
		t.Error(err)
	}
	if got := read(t, filepath.Join(target, "b")); got != "y" {
		t.Errorf("file written through the handle holds %q", got)
	}
}

func TestMountOptions(t *testing.T) {
	m, root := newMounter(t)
	target := filepath.Join(root, "v")
	if err := mountAt(m, target, small, empty); err != nil {
		t.Fatal(err)
	}
	table := read(t, "/proc/self/mountinfo")
	for line := range strings.Lines(table) {
		if !strings.Contains(line, " "+target+" ") {
			continue
		}
		options := []string{"nosuid", "nodev", "noexec", "size=64k", "nr_inodes=16", "mode=755", "tmpfs keywell"}
		if knowsNoswap(t) {
			options = append(options, "noswap")
		}
		for _, want := range options {
			if !strings.Contains(line, want) {
				t.Errorf("%q is not among %q", want, line)
			}
		}
	}
	if !strings.Contains(table, " "+target+" ") {
		t.Error("the target is not in the mount table")
	}
	if err := os.WriteFile(filepath.Join(target, "big"), make([]byte, small.Size+1), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write past the size: %v, want ENOSPC", err)
	}
}

// knowsNoswap tells whether the kernel can keep a tmpfs out of swap.
func knowsNoswap(t *testing.T) bool {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("probe", dir, "tmpfs", 0, "noswap"); err != nil {
		t.Logf("noswap is not tested: %v", err)
		return false
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	return true
}

// TestHandlesAreClosed counts file descriptors: one that is left open would keep a tmpfs in memory for ever.
func TestHandlesAreClosed(t *testing.T) {
	m, root := newMounter(t)
	target := filepath.Join(root, "v")
	everything := func() {
		broken := errors.New("broken")
		if err := mountAt(m, target, small, func(mount.Dir, uint64) error { return broken }); !errors.Is(err, broken) {
			t.Fatal(err)
		}
		if err := mountAt(m, target, small, empty); err != nil {
			t.Fatal(err)
		}
		if err := mountAt(m, target, small, empty); !errors.Is(err, mount.ErrOccupied) {
			t.Fatal(err)
		}
		d, _, err := m.Open(target)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Close(), m.Unmount(target), m.Unmount(target)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Open(target); !errors.Is(err, mount.ErrNotMounted) {
			t.Fatal(err)
		}
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	everything() // opens what the runtime keeps open
	before := open()
	for range 10 {
		everything()
	}
	if after := open(); after > before {
		t.Errorf("%d file descriptors became %d", before, after)
	}
}

func TestFailedMountLeavesNothing(t *testing.T) {
	m, root := newMounter(t)
	broken := errors.New("broken")
	fail := func(d mount.Dir, _ uint64) error {
		return errors.Join(write(d, "a", ""), broken)
	}

	created := filepath.Join(root, "created")
	if err := mountAt(m, created, small, fail); !errors.Is(err, broken) {
		t.Errorf("got %v, want what fill returned", err)
	}
	if exists(t, created) {
		t.Error("the target that Mount created is left")
	}

	found := filepath.Join(root, "found")
	if err := os.Mkdir(found, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mountAt(m, found, small, fail); !errors.Is(err, broken) {
		t.Errorf("got %v, want what fill returned", err)
	}
	if !exists(t, found) {
		t.Error("a target that Mount found is gone")
	}
	if _, _, err := m.Open(found); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("open: %v, want ErrNotMounted", err)
	}
	if err := mountAt(m, found, mount.Options{Size: 1 << 12, Inodes: 4, Context: "not a context"}, empty); err == nil {
		t.Error("a bad option was accepted")
	}
}

func TestMountDoesNotStack(t *testing.T) {
	m, root := newMounter(t)
	target := filepath.Join(root, "v")
	if err := mountAt(m, target, small, fillWith("a", "first")); err != nil {
		t.Fatal(err)
	}
	if err := mountAt(m, target, small, fillWith("a", "second")); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("second mount: %v, want ErrOccupied", err)
	}
	if got := read(t, filepath.Join(target, "a")); got != "first" {
		t.Errorf("file holds %q", got)
	}
	if err := m.Unmount(target); err != nil {
		t.Fatal(err)
	}

	late, err := m.Prepare(target)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if err := mountAt(m, target, small, fillWith("a", "third")); err != nil {
		t.Fatal(err)
	}
	if err := late.Mount(small, fillWith("a", "late")); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("mount on what was free before: %v, want ErrOccupied", err)
	}
	if got := read(t, filepath.Join(target, "a")); got != "third" {
		t.Errorf("file holds %q", got)
	}
}

func TestUnmount(t *testing.T) {
	m, root := newMounter(t)
	target := filepath.Join(root, "v")

	t.Run("removes mount and directory, twice", func(t *testing.T) {
		if err := mountAt(m, target, small, empty); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := m.Unmount(target); err != nil {
				t.Error(err)
			}
			if exists(t, target) {
				t.Error("the target is left")
			}
		}
	})
	t.Run("of a busy mount", func(t *testing.T) {
		if err := mountAt(m, target, small, fillWith("a", "x")); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(target, "a"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := m.Unmount(target); err != nil {
			t.Error(err)
		}
		if exists(t, target) {
			t.Error("the target is left")
		}
		if b := make([]byte, 1); must(f.Read(b)) != 1 || b[0] != 'x' {
			t.Error("the open file is not readable any more")
		}
	})
	t.Run("of stacked mounts", func(t *testing.T) {
		if err := os.Mkdir(target, 0o700); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := unix.Mount("x", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Unmount(target); err != nil {
			t.Error(err)
		}
		if exists(t, target) {
			t.Error("the target is left")
		}
	})
	t.Run("keeps files that the mount had hidden", func(t *testing.T) {
		hidden := filepath.Join(target, "mine")
		if err := errors.Join(os.Mkdir(target, 0o700), os.WriteFile(hidden, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := mountAt(m, target, small, empty); err != nil {
			t.Fatal(err)
		}
		if err := m.Unmount(target); err != nil {
			t.Error(err)
		}
		if !exists(t, hidden) {
			t.Error("a file that was there before the mount is gone")
		}
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("leaves a foreign mount alone", func(t *testing.T) {
		if err := os.Mkdir(target, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("x", target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := m.Unmount(target); !errors.Is(err, mount.ErrOccupied) {
			t.Errorf("unmount: %v, want ErrOccupied", err)
		}
		if _, _, err := m.Open(target); !errors.Is(err, mount.ErrOccupied) {
			t.Errorf("open: %v, want ErrOccupied", err)
		}
		if err := mountAt(m, target, small, empty); !errors.Is(err, mount.ErrOccupied) {
			t.Errorf("mount: %v, want ErrOccupied", err)
		}
	})
}

func must(n int, _ error) int { return n }

func TestHostileTargets(t *testing.T) {
	m, root := newMounter(t)
	outside := t.TempDir()
	if err := errors.Join(
		os.Symlink(outside, filepath.Join(root, "link")),
		os.Mkdir(filepath.Join(root, "dir"), 0o700),
		os.Symlink("dir", filepath.Join(root, "inner")),
		os.WriteFile(filepath.Join(root, "file"), nil, 0o600),
		os.Mkdir(filepath.Join(outside, "dir"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{
		"", "relative", root, root + "/", root + "/../x", root + "/a/../b", root + "//a", root + "x/a", "/etc/x",
		root + "/link", root + "/link/dir", root + "/link/new", root + "/inner", root + "/inner/new", root + "/file", root + "/file/x", root + "/missing/x",
	} {
		t.Run(strings.TrimPrefix(target, root), func(t *testing.T) {
			if err := mountAt(m, target, small, empty); !errors.Is(err, mount.ErrBadTarget) {
				t.Errorf("mount: %v, want ErrBadTarget", err)
			}
			if _, _, err := m.Open(target); err == nil {
				t.Error("open succeeded")
			}
			if err := m.Unmount(target); err != nil && !errors.Is(err, mount.ErrBadTarget) {
				t.Errorf("unmount: %v, want ErrBadTarget", err)
			}
		})
	}
	if got, err := os.ReadDir(outside); err != nil || len(got) != 1 {
		t.Errorf("outside holds %v, %v", got, err)
	}
	if !exists(t, filepath.Join(root, "link")) || !exists(t, filepath.Join(root, "file")) {
		t.Error("unmount removed what it had refused")
	}
}

func TestNew(t *testing.T) {
	for _, roots := range [][]string{nil, {"relative"}, {"/a/../b"}, {"/ok", ""}} {
		if _, err := mount.New(roots...); err == nil {
			t.Errorf("New(%q) succeeded", roots)
		}
	}
}

func BenchmarkMountUnmount(b *testing.B) {
	m, root := newMounter(b)
	target := filepath.Join(root, "v")
	for b.Loop() {
		if err := mountAt(m, target, small, empty); err != nil {
			b.Fatal(err)
		}
		if err := m.Unmount(target); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	m, root := newMounter(b)
	target := filepath.Join(root, "v")
	if err := mountAt(m, target, small, empty); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		d, _, err := m.Open(target)
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
	}
}
