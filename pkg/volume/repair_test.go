package volume_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/volume/mount"
)

func TestPublishRepairsALostMount(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1"})
		n.mustPublish(t, n.request("v", "a"))
		if err := n.opts.Mounter.Unmount(n.target("v")); err != nil {
			t.Fatal(err)
		}
		if st, err := n.Stats("v", ""); err != nil || !st.Condition.Abnormal {
			t.Errorf("without a mount, stats are %+v, %v", st, err)
		}
		clear(n.due)
		n.mustPublish(t, n.request("v", "a"))
		if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
			t.Error(diff)
		}
		if due := time.Until(n.due["v"]); due < 50*time.Second || due > time.Minute {
			t.Errorf("due in %v, want a minute", due)
		}
		n.mustPublish(t, n.request("v", "a"))
		if got := n.store.count(); got != 2 {
			t.Errorf("the store was asked %d times, want twice", got)
		}
	})
}

func TestPublishRepairsDamage(t *testing.T) {
	for _, link := range []string{"outside", "../outside", "..", "..data", "..sub/..sub", "..sub"} {
		t.Run("a volume whose ..data leads to "+link, func(t *testing.T) {
			n := newTmpfsNode(t)
			n.store.set("a", fields{"a": "1"})
			n.mustPublish(t, n.request("v", "a"))
			precious := n.target("outside/precious")
			data, sub := n.target("v/..data"), n.target("v/..sub/..sub")
			if err := errors.Join(os.Mkdir(n.target("outside"), 0o700), os.WriteFile(precious, nil, 0o600), os.MkdirAll(sub, 0o700),
				os.Remove(data), os.Symlink(link, data), os.Mkdir(n.target("v/..data_tmp"), 0o700)); err != nil {
				t.Fatal(err)
			}
			n.mustPublish(t, n.request("v", "a"))
			if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
				t.Error(diff)
			}
			if got := n.leftovers(t, "v"); len(got) > 0 {
				t.Errorf("the volume also holds %v", got)
			}
			if _, err := os.Stat(precious); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPublishLeavesStrangersAlone(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	n.mounter.replace(n.target("v"))
	if err := n.Publish(t.Context(), n.request("v", "a")); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("got %v, want ErrOccupied", err)
	}
	if err := os.Mkdir(n.target("w"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.mounter.replace(n.target("w"))
	asked := n.store.count()
	if err := n.Publish(t.Context(), n.request("w", "a")); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("got %v, want ErrOccupied", err)
	}
	if n.store.count() != asked {
		t.Error("the store was asked for a volume that can't be mounted")
	}
}
