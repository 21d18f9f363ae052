package volume_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/volume"
)

// found recovers the volumes that a text in the place of the journal leaves, in a new process, and returns their IDs.
func found(t *testing.T, n *node, text string) []string {
	t.Helper()
	if err := os.WriteFile(n.journal(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	return n.IDs()
}

func TestBadRecordsAreSetAside(t *testing.T) {
	for name, bad := range map[string]string{
		"not JSON":      `saved "v" record`,
		"no record":     `saved "v"`,
		"other version": `saved "v" {"version": 99, "id": "v"}`,
		"other volume":  `saved "v" {"version": 1, "id": "w", "target": "/w", "attributes": {"store": "s", "secrets": "a"}}`,
		"bad volume":    `saved "v" {"version": 1, "id": "v", "target": "/v", "attributes": {"secret": "a"}}`,
		"unknown verb":  `gone "v"`,
		"no verb":       `record`,
		"no ID":         `saved v {}`,
		"too much":      `published "v" {"version": 1}`,
		"empty":         ``,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.store.set("a", fields{"a": "1"})
			n.mustPublish(t, n.request("v", "a"))
			n.mustPublish(t, n.request("w", "a"))
			w := n.records(t)["w"]
			got := found(t, n, bad+"\n"+strings.Replace(w, "published ", `saved "w" `, 1)+"\n")
			if diff := cmp.Diff([]string{"w"}, got); diff != "" {
				t.Error(diff)
			}
			if got := n.records(t); len(got) != 1 {
				t.Errorf("records are %v, want that of w", got)
			}
			if kept, err := os.ReadFile(n.journal() + ".bad"); err != nil || strings.TrimSpace(string(kept)) != strings.TrimSpace(bad) {
				t.Errorf("set aside is %q, %v", kept, err)
			}
			if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTornLines cuts the journal of a volume off at every byte: each is what the process may have left, and makes either
// the volume before the last line that is whole, or the one after it.
func TestTornLines(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	text, err := os.ReadFile(n.journal())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	if len(lines) != 3 || lines[2] != "" {
		t.Fatalf("the journal is %q, want two lines", text)
	}
	for cut := range len(text) + 1 {
		if cut < len(lines[0]) && cut%16 != 0 { // any byte of a record is like any other
			continue
		}
		n := newNode(t)
		n.store.set("a", fields{"a": "1"})
		n.mustPublish(t, n.request("v", "a"))
		own, err := os.ReadFile(n.journal())
		if err != nil {
			t.Fatal(err)
		}
		want := []string(nil)
		if cut == len(text) {
			want = []string{"v"}
		}
		if got := found(t, n, string(own[:max(0, len(own)-len(text)+cut)])); !slices.Equal(got, want) {
			t.Errorf("cut off after %q: %q, want %q", text[:cut], got, want)
		}
		if cut >= len(lines[0]) && cut < len(text) {
			n.absent(t, "v") // it was begun, and may have been mounted
		}
		if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
			t.Error(err)
		}
		n.mustPublish(t, n.request("v", "a"))
	}
}

// TestJournalIsReplaced publishes until history must have been dropped, and finds the volumes that are left.
func TestJournalIsReplaced(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("first \"\n\\ é", "a"))
	long := strings.Repeat("x", 64<<10)
	var most int64
	for i := range 100 {
		req := n.request("v", "a")
		req.VolumeID = fmt.Sprint(i, long)
		n.mustPublish(t, req)
		if err := n.Unpublish(t.Context(), req.VolumeID, req.TargetPath); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(n.journal())
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, info.Size())
	}
	if most > 2<<20 {
		t.Errorf("the journal had %d bytes", most)
	}
	if info, err := os.Stat(n.journal()); err != nil || info.Mode() != 0o600 {
		t.Errorf("the journal has mode %v, %v", info.Mode(), err)
	}
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"first \"\n\\ é"}, n.IDs()); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(n.journal() + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a journal that was being written is left: %v", err)
	}
}

// TestLostJournalIsWrittenAgain has somebody empty the state directory while the agent runs.
func TestLostJournalIsWrittenAgain(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	if err := os.RemoveAll(n.stateDir); err != nil {
		t.Fatal(err)
	}
	n.mustPublish(t, n.request("w", "a"))
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"v", "w"}, n.IDs()); diff != "" {
		t.Error(diff)
	}
}

// TestFullStateDirectory: what is published can be unpublished, and what has no record is not published.
func TestFullStateDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	state := t.TempDir()
	if err := unix.Mount("state", state, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n := newNode(t, func(o *volume.Options) { o.StateDir = state })
	n.stateDir = state
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	ballast := filepath.Join(state, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the directory is not full: %v", err)
	}
	large := n.request("w", "a")
	large.MountFlags = []string{"context=" + strings.Repeat("x", 128<<10)}
	if err := n.Publish(t.Context(), large); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("publish: %v, want no space", err)
	}
	if got := n.records(t); len(got) != 1 {
		t.Errorf("records are %v, want one", got)
	}
	if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
		t.Error(err)
	}
	n.absent(t, "v")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	n.mustPublish(t, n.request("v", "a"))
}

// TestJournalForgets: what is gone is not remembered for long, what is there is kept, and a journal that is another
// process' by now is left alone.
func TestJournalForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.store.set("a", fields{"a": "1"})
		for _, id := range []string{"gone", "kept"} {
			n.mustPublish(t, n.request(id, "a"))
		}
		text := func() string {
			t.Helper()
			text, err := os.ReadFile(n.journal())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		if err := n.Unpublish(t.Context(), "gone", n.target("gone")); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text(), "gone") {
			t.Error("the journal was replaced at once")
		}
		time.Sleep(10*time.Second + 1) // of the bubble
		synctest.Wait()
		if got := text(); strings.Contains(got, "gone") || !strings.HasPrefix(got, `saved "kept" {`) {
			t.Errorf("the journal is %q", got)
		}
		if err := n.Unpublish(t.Context(), "kept", n.target("kept")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(n.journal()), os.WriteFile(n.journal(), []byte("another's\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Second + 1)
		synctest.Wait()
		if got := text(); got != "another's\n" {
			t.Errorf("the other journal is %q", got)
		}
	})
}
