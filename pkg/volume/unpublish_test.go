package volume_test

import (
	"errors"
	"os"
	"testing"

	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

func TestUnpublish(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1"})
		if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
			t.Errorf("before publish: %v", err)
		}
		for range 2 {
			n.mustPublish(t, n.request("v", "a"))
			n.allow(t, "a")
			n.store.fail("a", errors.New("store is gone"))
			for range 2 {
				if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
					t.Error(err)
				}
				n.absent(t, "v")
			}
			if _, known := n.due["v"]; known || len(n.IDs()) > 0 {
				t.Error("the volume is still known")
			}
			if _, err := n.Rotate(t.Context(), "v"); !errors.Is(err, volume.ErrNotPublished) {
				t.Errorf("rotate: %v, want ErrNotPublished", err)
			}
			n.allow(t)
			n.store.fail("a", nil)
		}
	})
}

func TestUnpublishConflicts(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	if err := n.Unpublish(t.Context(), "w", n.target("v")); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("another volume's target: %v, want ErrConflict", err)
	}
	if err := n.Unpublish(t.Context(), "v", n.target("w")); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("another target: %v, want ErrConflict", err)
	}
	n.files(t, "v")
}

// TestTargetsAreFreeAgain publishes one volume after another on one target.
func TestTargetsAreFreeAgain(t *testing.T) {
	for name, use := range map[string]func(*testing.T, *node, volume.Request){
		"after a publish that failed": func(t *testing.T, n *node, req volume.Request) {
			n.store.fail("a", errors.New("down"))
			if err := n.Publish(t.Context(), req); err == nil {
				t.Error("publish succeeded")
			}
			n.store.fail("a", nil)
		},
		"after publish and unpublish": func(t *testing.T, n *node, req volume.Request) {
			n.mustPublish(t, req)
			if err := n.Unpublish(t.Context(), req.VolumeID, req.TargetPath); err != nil {
				t.Error(err)
			}
		},
		"after unpublish of nothing": func(t *testing.T, n *node, req volume.Request) {
			if err := n.Unpublish(t.Context(), req.VolumeID, req.TargetPath); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.store.set("a", fields{"a": "1"})
			req := n.request("v", "a")
			use(t, n, req)
			req.VolumeID = "w"
			n.mustPublish(t, req)
		})
	}
}

func TestUnpublishWithStateLost(t *testing.T) {
	n := newTmpfsNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	if err := os.RemoveAll(n.stateDir); err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Publish(t.Context(), n.request("v", "a")); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("publish over a mount that is not known: %v, want ErrOccupied", err)
	}
	for range 2 {
		if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
			t.Error(err)
		}
		n.absent(t, "v")
	}
}

func TestUnpublishEndsWhatHangs(t *testing.T) {
	for _, hung := range []string{"publish", "rotate"} {
		t.Run(hung, func(t *testing.T) {
			n := newNode(t)
			n.store.set("a", fields{"a": "1"})
			if hung == "rotate" {
				n.mustPublish(t, n.request("v", "a"))
			}
			n.store.hang, n.store.entered = make(chan struct{}), make(chan string, 1)
			done := make(chan error)
			go func() {
				if hung == "publish" {
					done <- n.Publish(t.Context(), n.request("v", "a"))
					return
				}
				_, err := n.Rotate(t.Context(), "v")
				done <- err
			}()
			<-n.store.entered
			queued := make(chan error)
			go func() { queued <- n.Publish(t.Context(), n.request("v", "a")) }()

			if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, volume.ErrUnpublished) {
				t.Errorf("%s returned %v, want ErrUnpublished", hung, err)
			}
			close(n.store.hang)
			<-queued // it came before or after: both are right, and the volume is whole or absent
			if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
				t.Error(err)
			}
			n.absent(t, "v")
		})
	}
}
