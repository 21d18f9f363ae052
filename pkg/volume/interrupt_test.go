package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/volume"
)

// TestChangeDuringPublish changes a secret after it was read and before the volume is known to those who would nudge it.
func TestChangeDuringPublish(t *testing.T) {
	for name, tt := range map[string]struct {
		ask  func(*node) []string
		soon bool
	}{
		"of its secret":      {func(n *node) []string { return n.Using("s", "a") }, true},
		"of its store":       {func(n *node) []string { return n.Using("s", "") }, true},
		"of everything":      {func(n *node) []string { return n.IDs() }, true},
		"of another secret":  {func(n *node) []string { return n.Using("s", "b") }, false},
		"of a distant store": {func(n *node) []string { return n.Using("t", "") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.store.set("a", fields{"a": "1"})
			n.at = func(step string) {
				if step == "tmpfs made" && len(tt.ask(n)) > 0 {
					t.Error("a volume that is not published yet is among the published ones")
				}
			}
			n.mustPublish(t, n.request("v", "a"))
			if soon := time.Until(n.due["v"]) < time.Second; soon != tt.soon {
				t.Errorf("due at %v", n.due["v"])
			}
		})
	}
}

// TestForeignCancellation has a store fail because something else was cancelled, not the rotation.
func TestForeignCancellation(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.store.fail("a", &providers.Error{Store: "s", Name: "a", Kind: providers.Unavailable, Err: context.Canceled})
	if _, err := n.Rotate(ctx, "v"); err == nil {
		t.Error("a cancelled rotation succeeded")
	}
	if c := n.condition(t, "v"); c.Abnormal {
		t.Errorf("after a cancelled rotation, condition is %+v", c)
	}
	if _, err := n.Rotate(t.Context(), "v"); err == nil {
		t.Error("a failed rotation succeeded")
	}
	if c := n.condition(t, "v"); !c.Abnormal {
		t.Error("a failed rotation does not show")
	}
}

// TestPanic checks that what catches a panic, in the CSI server or the scheduler, may go on with the volume.
func TestPanic(t *testing.T) {
	page := int64(os.Getpagesize())
	n := newNode(t, func(o *volume.Options) { o.MaxNodeBytes = 2 * page })
	n.store.set("a", fields{"a": "0"})
	panics := func(act func() error) {
		t.Helper()
		n.at = func(step string) {
			if step == "files written" {
				panic("in the middle")
			}
		}
		defer func() {
			n.at = nil
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_ = act()
	}
	for range 3 {
		panics(func() error { return n.Publish(t.Context(), n.request("v", "a")) })
	}
	n.mustPublish(t, n.request("v", "a"))
	for i := range 3 {
		n.store.set("a", fields{"a": fmt.Sprint(i + 1)})
		panics(func() error { _, err := n.Rotate(t.Context(), "v"); return err })
	}
	if _, err := n.Rotate(t.Context(), "v"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "3"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	if got := n.leftovers(t, "v"); len(got) > 0 {
		t.Errorf("the volume also holds %v", got)
	}
}

// TestTokensAfterRecovery checks that a volume does not wait for its next turn once the kubelet has brought its tokens.
func TestTokensAfterRecovery(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	req := n.request("v", "a")
	req.Tokens = &tokens{}
	n.mustPublish(t, req)
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.store.fail("a", providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens))
	outcome, err := n.Rotate(t.Context(), "v")
	if err != nil || outcome.Changed || n.condition(t, "v").Abnormal {
		t.Errorf("rotating before the kubelet is back: %v, %v, %v", outcome, err, n.condition(t, "v"))
	}
	if wait := time.Until(outcome.Next); wait < 30*time.Second {
		t.Errorf("that is tried again after %v", wait)
	}
	for _, soon := range []bool{true, false} {
		n.due["v"] = time.Now().Add(time.Hour)
		n.mustPublish(t, req)
		if got := time.Until(n.due["v"]) < time.Second; got != soon {
			t.Errorf("due at %v, want soon %v", n.due["v"], soon)
		}
	}
	if _, err := n.Rotate(t.Context(), "v"); !errors.Is(err, providers.ErrNoTokens) || !n.condition(t, "v").Abnormal {
		t.Errorf("rotating once it is: %v, %v", err, n.condition(t, "v"))
	}
}

// TestBrokenVolumeIsNotInPlace finds a volume in which a file is not what the agent wrote.
func TestBrokenVolumeIsNotInPlace(t *testing.T) {
	n := newNode(t, func(o *volume.Options) { o.MaxNodeBytes = 2 * int64(os.Getpagesize()) })
	n.store.set("a", fields{"a": "1"})
	n.store.set("large", fields{"large": strings.Repeat("x", 2*os.Getpagesize())})
	n.mustPublish(t, n.request("v", "a"))
	file := filepath.Join(n.target("v"), "..data", "a")
	if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o444)); err != nil { // which nobody may try to read
		t.Fatal(err)
	}
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := n.condition(t, "v"); !c.Abnormal {
		t.Error("the volume counts as whole")
	}
	if err := n.Publish(t.Context(), n.request("w", "large")); !errors.Is(err, volume.ErrTooLarge) {
		t.Errorf("publish: %v: what the broken volume takes is not counted", err)
	}
	n.store.fail("a", providers.Errorf(providers.Unavailable, "down"))
	if err := n.Publish(t.Context(), n.request("v", "a")); err == nil {
		t.Error("publish found a broken volume correct")
	}
	n.store.fail("a", nil)
	n.mustPublish(t, n.request("v", "a"))
	if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	if c := n.condition(t, "v"); c.Abnormal {
		t.Errorf("condition is %+v", c)
	}
}

// TestFailedRecordLeavesNothing has something in the way of the records.
func TestFailedRecordLeavesNothing(t *testing.T) {
	n := newNode(t, func(o *volume.Options) { o.MaxNodeBytes = int64(os.Getpagesize()) })
	n.store.set("a", fields{"a": "1"})
	if err := os.Mkdir(n.journal(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.Publish(t.Context(), n.request("v", "a")); err == nil {
		t.Error("publish succeeded without a record")
	}
	if err := os.Remove(n.journal()); err != nil {
		t.Error(err)
	}
	n.absent(t, "v")
	n.mustPublish(t, n.request("v", "a"))
}

// failing is a Mounter whose Unmount fails.
type failing struct {
	volume.Mounter
	err error
}

func (f *failing) Unmount(target string) error {
	if f.err != nil {
		return f.err
	}
	return f.Mounter.Unmount(target)
}

// TestFailedUnmountKeepsTheRecord checks that what could not be removed is tried again by the next process.
func TestFailedUnmountKeepsTheRecord(t *testing.T) {
	mounter := &failing{}
	n := newNode(t, func(o *volume.Options) { mounter.Mounter, o.Mounter = o.Mounter, mounter })
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	refused := errors.New("refused")
	mounter.err = refused
	for range 2 {
		if err := n.Unpublish(t.Context(), "v", n.target("v")); !errors.Is(err, refused) {
			t.Errorf("unpublish: %v", err)
		}
		n.restart(t)
		if err := n.Recover(t.Context()); !errors.Is(err, refused) {
			t.Errorf("recover: %v", err)
		}
	}
	if got := n.records(t); len(got) != 1 {
		t.Errorf("records are %v", got)
	}
	mounter.err = nil
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	n.absent(t, "v")
}
