package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/volume"
)

func TestRecover(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1", "b": "2"})
		req := n.request("v", "a")
		req.Attributes["refreshInterval"] = "10s"
		n.mustPublish(t, req)
		clear(n.due)
		n.restart(t)
		if err := n.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := n.store.count(); got != 1 {
			t.Errorf("recovery asked the store %d times", got-1)
		}
		if due, known := n.due["v"]; !known || time.Until(due) > 10*time.Second {
			t.Errorf("due at %v, %v", due, known)
		}
		if diff := cmp.Diff([]string{"v"}, n.Using("s", "a")); diff != "" {
			t.Error(diff)
		}
		n.mustPublish(t, req)
		if out, err := n.Rotate(t.Context(), "v"); err != nil || out.Changed {
			t.Errorf("rotate: %+v, %v", out, err)
		}
		if c := n.condition(t, "v"); c.Abnormal {
			t.Errorf("condition is %+v", c)
		}
		if got := n.store.count(); got != 2 {
			t.Errorf("the store was asked %d times in all, want 2", got)
		}
	})
}

func TestRotationAfterRecoveryRestoresModeAndOwner(t *testing.T) {
	n := newTmpfsNode(t)
	path := filepath.Join(n.target("v"), "a")
	for name, change := range map[string]func() error{
		"mode":  func() error { return os.Chmod(path, 0o600) },
		"group": func() error { return os.Chown(path, 0, 8) },
		"user":  func() error { return os.Chown(path, 8, 7) },
	} {
		t.Run(name, func(t *testing.T) {
			n.store.set("a", fields{"a": "1"})
			req := n.request("v", "a")
			req.Attributes["uid"], req.Attributes["gid"] = "0", "7"
			n.mustPublish(t, req)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			n.restart(t)
			if err := n.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed {
				t.Errorf("rotate: %+v, %v", out, err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o440 || st.Uid != 0 || st.Gid != 7 {
				t.Errorf("the file is %d:%d %v", st.Uid, st.Gid, info.Mode())
			}
		})
	}
}

func TestRecoverWithoutMount(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1"})
		n.mustPublish(t, n.request("v", "a"))
		if err := n.opts.Mounter.Unmount(n.target("v")); err != nil {
			t.Fatal(err)
		}
		n.restart(t)
		if err := n.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if due := time.Until(n.due["v"]); due > 0 {
			t.Errorf("due in %v, want now", due)
		}
		if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed {
			t.Errorf("rotate: %+v, %v", out, err)
		}
		if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
			t.Error(diff)
		}
		if c := n.condition(t, "v"); c.Abnormal {
			t.Errorf("condition is %+v", c)
		}
	})
}

func TestRecoverLeavesStrangersAlone(t *testing.T) {
	recover := func(t *testing.T, n *node) {
		t.Helper()
		n.restart(t)
		if err := n.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, prepare := range map[string]func(*testing.T, *node){
		"from a volume": func(*testing.T, *node) {},
		"from a volume that was mounted again": func(t *testing.T, n *node) {
			if err := n.opts.Mounter.Unmount(n.target("v")); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Rotate(t.Context(), "v"); err != nil {
				t.Fatal(err)
			}
		},
		"from a volume that was found half recorded": func(t *testing.T, n *node) {
			text, err := os.ReadFile(n.journal())
			if err != nil {
				t.Fatal(err)
			}
			text = regexp.MustCompile(`"device":\d+`).ReplaceAll(text, []byte(`"device":0`))
			if err := os.WriteFile(n.journal(), text, 0o600); err != nil {
				t.Fatal(err)
			}
			recover(t, n)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newTmpfsNode(t)
			n.store.set("a", fields{"a": "1"})
			n.mustPublish(t, n.request("v", "a"))
			prepare(t, n)
			for _, name := range []string{"v", "unknown"} {
				mountStranger(t, n.target(name))
			}
			if c := n.condition(t, "v"); !c.Abnormal {
				t.Error("a volume below a stranger's mount is healthy")
			}
			recover(t, n)
			if c := n.condition(t, "v"); !c.Abnormal || !strings.Contains(c.Message, "something else is mounted") {
				t.Errorf("condition is %+v", c)
			}
			if _, err := n.Rotate(t.Context(), "v"); err == nil {
				t.Error("a stranger's mount was written to")
			}
			for _, name := range []string{"v", "unknown"} {
				if _, err := os.Stat(filepath.Join(n.target(name), "mine")); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// mountStranger mounts what looks like a volume's tmpfs, with a file "mine" in it.
func mountStranger(t *testing.T, target string) {
	t.Helper()
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if err := unix.Mount("x", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := volume.New(volume.Options{}); err == nil {
		t.Error("a Set without an Authorizer was made")
	}
}
