package volume_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

// tokens is a providers.TokenSource that can be told from another.
type tokens struct{ name string }

func (*tokens) Token(context.Context, string) (secret.Value, time.Time, error) {
	return secret.FromString("token-c4n4ry"), time.Time{}, nil
}

func (n *node) mustPublish(t testing.TB, req volume.Request) {
	t.Helper()
	if err := n.Publish(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// onBoth runs a test with directories and with real mounts.
func onBoth(t *testing.T, test func(*testing.T, *node)) {
	t.Run("directories", func(t *testing.T) { test(t, newNode(t)) })
	t.Run("tmpfs", func(t *testing.T) { test(t, newTmpfsNode(t)) })
}

func TestPublish(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "value-c4n4ry"})
		n.store.set("b", fields{"u": "1", "p": "2"})
		req := n.request("v", "[a, {name: b, path: dir/b, mode: 0640}]")
		req.Tokens = &tokens{}
		req.Attributes["csi.storage.k8s.io/serviceAccount.tokens"] = "token-c4n4ry"
		n.mustPublish(t, req)

		if diff := cmp.Diff(map[string]string{"a": "value-c4n4ry", "dir/b/u": "1", "dir/b/p": "2"}, n.files(t, "v")); diff != "" {
			t.Error(diff)
		}
		for name, want := range map[string]fs.FileMode{"a": 0o444, "dir": fs.ModeDir | 0o755, "dir/b": fs.ModeDir | 0o755, "dir/b/u": 0o640} {
			if info, err := os.Stat(filepath.Join(n.target("v"), name)); err != nil || info.Mode() != want {
				t.Errorf("%s has mode %v, %v, want %v", name, info.Mode(), err, want)
			}
		}
		if got := n.leftovers(t, "v"); len(got) > 0 {
			t.Errorf("the volume also holds %v", got)
		}
		if due := time.Until(n.due["v"]); due < 50*time.Second || due > time.Minute {
			t.Errorf("due in %v, want a minute", due)
		}
		for _, r := range n.store.reads {
			if r.Origin != "volume" || r.Tokens != req.Tokens {
				t.Errorf("read was asked for as %+v", r)
			}
		}
		b, err := os.ReadFile(n.journal())
		if err != nil || strings.Contains(string(b), "c4n4ry") {
			t.Errorf("the records are %s, %v", b, err)
		}
		if info, err := os.Stat(n.journal()); err != nil || info.Mode() != 0o600 {
			t.Errorf("the records have mode %v, %v", info.Mode(), err)
		}
		if got := n.records(t); len(got) != 1 || !strings.HasPrefix(got["v"], "published ") {
			t.Errorf("records are %v, want one", got)
		}
	})
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	tests := []struct {
		name       string
		attributes map[string]string
		group      string
		uid, gid   uint32
		mode       fs.FileMode
	}{
		{"of the agent", nil, "", 0, 0, 0o444},
		{"uid and gid", map[string]string{"uid": "7", "gid": "8"}, "9", 7, 8, 0o440},
		{"mount group", nil, "9", 0, 9, 0o440},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newTmpfsNode(t)
			n.store.set("a", fields{"a": "x"})
			req := n.request("v", "a")
			for k, v := range tt.attributes {
				req.Attributes[k] = v
			}
			req.MountGroup = tt.group
			n.mustPublish(t, req)
			info, err := os.Stat(filepath.Join(n.target("v"), "a"))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); st.Uid != tt.uid || st.Gid != tt.gid || info.Mode() != tt.mode {
				t.Errorf("the file is %d:%d %v, want %d:%d %v", st.Uid, st.Gid, info.Mode(), tt.uid, tt.gid, tt.mode)
			}
		})
	}
}

// TestUmask runs tests that look at modes in a process with another umask: nothing but what is asked for decides.
func TestUmask(t *testing.T) {
	cmd := exec.Command("sh", "-c", `umask 077; exec "$0" -test.run='^(TestPublish|TestOwner)$' -test.v`, os.Args[0])
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPublish/directories") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRepublishTouchesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1"})
		req := n.request("v", "a")
		n.mustPublish(t, req)
		link, err := os.Readlink(filepath.Join(n.target("v"), "..data"))
		if err != nil {
			t.Fatal(err)
		}
		n.store.set("a", fields{"a": "2"})
		n.allow(t, "a") // what is published stays published
		n.at = func(step string) { t.Errorf("republish reached step %q", step) }

		fresh := &tokens{"fresh"}
		req.Tokens = fresh
		req.Attributes["csi.storage.k8s.io/serviceAccount.tokens"] = "other"
		n.mustPublish(t, req)
		if got := n.store.count(); got != 1 {
			t.Errorf("the store was asked %d times, want once", got)
		}
		if again, _ := os.Readlink(filepath.Join(n.target("v"), "..data")); again != link {
			t.Errorf("generation %s became %s", link, again)
		}

		n.at = nil
		n.allow(t)
		if _, err := n.Rotate(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		if r := n.store.reads[1]; r.Tokens != fresh || r.Origin != "rotation" || r.MaxAge != 54*time.Second {
			t.Errorf("the rotation asked for %+v", r)
		}
	})
}

func TestPublishConflicts(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	for name, change := range map[string]func(*volume.Request){
		"other target":     func(r *volume.Request) { r.TargetPath = n.target("w") },
		"other attributes": func(r *volume.Request) { r.Attributes["mode"] = "0400" },
		"other pod":        func(r *volume.Request) { r.Identity.Pod = "q" },
		"other group":      func(r *volume.Request) { r.MountGroup = "5" },
		"other volume ID":  func(r *volume.Request) { r.VolumeID = "w" },
	} {
		t.Run(name, func(t *testing.T) {
			req := n.request("v", "a")
			change(&req)
			if err := n.Publish(t.Context(), req); !errors.Is(err, volume.ErrConflict) {
				t.Errorf("got %v, want ErrConflict", err)
			}
		})
	}
	if diff := cmp.Diff([]string{"v"}, n.IDs()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
}

func TestPublishRefusesBadRequests(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	for name, change := range map[string]func(*volume.Request){
		"no ID":           func(r *volume.Request) { r.VolumeID = "" },
		"relative target": func(r *volume.Request) { r.TargetPath = "v" },
		"group":           func(r *volume.Request) { r.MountGroup = "users" },
		"mount flag":      func(r *volume.Request) { r.MountFlags = []string{"exec"} },
		"attributes":      func(r *volume.Request) { r.Attributes = nil },
		"size":            func(r *volume.Request) { r.Attributes["size"] = "1Gi" },
	} {
		t.Run(name, func(t *testing.T) {
			req := n.request("v", "a")
			change(&req)
			var invalid *volume.InvalidError
			if err := n.Publish(t.Context(), req); !errors.As(err, &invalid) {
				t.Errorf("got %v, want an *InvalidError", err)
			}
			n.absent(t, "v")
			if n.store.count() > 0 {
				t.Error("a secret was read")
			}
		})
	}
}

func TestFailedPublishLeavesNothing(t *testing.T) {
	unavailable := providers.Errorf(providers.Unavailable, "down")
	tests := []struct {
		name    string
		secrets string
		break_  func(t *testing.T, n *node)
		want    func(error) bool
		unread  bool // no secret was read
	}{
		{"secret that does not exist", "a,b", nil, func(err error) bool { return providers.KindOf(err) == providers.NotFound }, false},
		{"store that is down", "a", func(_ *testing.T, n *node) { n.store.fail("a", unavailable) }, func(err error) bool { return errors.Is(err, unavailable) }, false},
		{"optional secret of a store that is down", "[{name: a, optional: true}]", func(_ *testing.T, n *node) { n.store.fail("a", unavailable) }, func(err error) bool { return errors.Is(err, unavailable) }, false},
		{"one secret that the policy refuses", "a,c", func(t *testing.T, n *node) { n.allow(t, "c") }, is[*scope.DeniedError], true},
		{"store that nobody knows", "[{name: a, store: x}]", nil, func(err error) bool { return errors.Is(err, scope.ErrStoreNotFound) }, true},
		{"hostile field", "a", func(_ *testing.T, n *node) { n.store.set("a", fields{"../x": "1"}) }, is[*volume.InvalidError], false},
		{"more than the volume's size", "a", func(_ *testing.T, n *node) {
			n.store.set("a", fields{"a": strings.Repeat("x", 64<<10)})
		}, func(err error) bool { return errors.Is(err, volume.ErrTooLarge) }, false},
		{"more files than allowed", "a", func(_ *testing.T, n *node) {
			f := fields{}
			for i := range 5000 {
				f[string(rune(0x4e00+i))] = ""
			}
			n.store.set("a", f)
		}, func(err error) bool { return errors.Is(err, volume.ErrTooLarge) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, n *node) {
				n.store.set("a", fields{"a": "1"})
				if tt.break_ != nil {
					tt.break_(t, n)
				}
				req := n.request("v", tt.secrets)
				req.Attributes["size"] = "60Ki"
				err := n.Publish(t.Context(), req)
				if err == nil || !tt.want(err) {
					t.Errorf("got %v", err)
				}
				if got := n.store.count(); tt.unread && got > 0 {
					t.Errorf("the store was asked %d times, before all was allowed", got)
				}
				n.absent(t, "v")
				if got := n.IDs(); len(got) > 0 {
					t.Errorf("volumes are %v", got)
				}

				// Nothing stands in the way of the next try.
				n.allow(t)
				n.store.fail("a", nil)
				n.store.set("a", fields{"a": "1"})
				n.mustPublish(t, n.request("v", "a"))
			})
		})
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func TestDenialsAreTold(t *testing.T) {
	n := newNode(t)
	n.allow(t, "a", "b")
	req := n.request("v", "a,b,c")
	err := n.Publish(t.Context(), req)
	want := []volume.Denial{
		{VolumeID: "v", Identity: req.Identity, Ref: scope.Ref{Store: "s", Name: "a"}, Origin: "volume"},
		{VolumeID: "v", Identity: req.Identity, Ref: scope.Ref{Store: "s", Name: "b"}, Origin: "volume"},
	}
	for i := range n.denied {
		if !is[*scope.DeniedError](n.denied[i].Err) {
			t.Errorf("denial %d has error %v", i, n.denied[i].Err)
		}
		n.denied[i].Err = nil
	}
	if diff := cmp.Diff(want, n.denied); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{`secret "a"`, `secret "b"`} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// TestCachedSecrets publishes secrets that are at hand, and one that is not because it does not exist.
func TestCachedSecrets(t *testing.T) {
	n := newNode(t)
	n.store.atHand = true
	n.store.set("a", fields{"a": "1"})
	n.store.set("b", fields{"b": "2"})
	n.mustPublish(t, n.request("v", "[{name: a}, {name: none, optional: true}, {name: b}]"))
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	if err := n.Publish(t.Context(), n.request("w", "a,none,b")); providers.KindOf(err) != providers.NotFound {
		t.Errorf("got %v, want NotFound", err)
	}
}

// TestFailedWriteLeavesNothing puts something in the way of the swap.
func TestFailedWriteLeavesNothing(t *testing.T) {
	n := newNode(t, func(o *volume.Options) { o.MaxNodeBytes = int64(os.Getpagesize()) })
	n.store.set("a", fields{"a": "1"})
	n.at = func(step string) {
		if step == "files written" {
			if err := os.Mkdir(filepath.Join(n.mounter.base, "detached1", "..data"), 0o700); err != nil {
				t.Error(err)
			}
		}
	}
	if err := n.Publish(t.Context(), n.request("v", "a")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want what stood in the way", err)
	}
	n.absent(t, "v")
	n.at = nil
	n.mustPublish(t, n.request("v", "a"))
}

func TestConcurrentPublishesAreOne(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1"})
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				if err := n.Publish(t.Context(), n.request("v", "a")); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if got := n.store.count(); got != 1 {
			t.Errorf("the store was asked %d times, want once", got)
		}
	})
}

// TestPublishFollowsTheAppID checks that a pod's annotation may change: it is no conflict, and rotations go by it.
func TestPublishFollowsTheAppID(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	req := n.request("v", "a")
	n.mustPublish(t, req)
	req.Identity.AppID = "renamed"
	n.mustPublish(t, req)
	if got := n.store.count(); got != 1 {
		t.Errorf("the store was asked %d times, want once", got)
	}
	outcome, err := n.Rotate(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	if got := n.store.reads[1].Grant.Identity().AppID; got != "renamed" || outcome.Identity.AppID != "renamed" {
		t.Errorf("the rotation was for app id %q, its outcome for %q", got, outcome.Identity.AppID)
	}
}
