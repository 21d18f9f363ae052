package volume_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

func TestNodeLimit(t *testing.T) {
	n := newNode(t, func(o *volume.Options) { o.MaxNodeBytes = 3 << 14 })
	for _, name := range []string{"a", "b", "c"} {
		n.store.set(name, fields{name: strings.Repeat(name, 1<<14)})
	}
	n.mustPublish(t, n.request("v", "a"))
	n.mustPublish(t, n.request("w", "b"))
	if err := n.Publish(t.Context(), n.request("x", "a,b")); !errors.Is(err, volume.ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
	n.store.set("a", fields{"a": strings.Repeat("A", 1<<14)})
	for range 5 { // both generations count while one replaces the other, and only then
		if _, err := n.Rotate(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		n.store.set("a", fields{"a": strings.Repeat("B", 1<<14)})
	}
	if err := n.Unpublish(t.Context(), "w", n.target("w")); err != nil {
		t.Fatal(err)
	}
	n.mustPublish(t, n.request("x", "b,c"))
}

func TestMountOptions(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	req := n.request("v", "a")
	req.Attributes["size"] = "64Ki"
	req.MountFlags = []string{`context="system_u:object_r:container_file_t:s0:c1,c2"`}
	n.mustPublish(t, req)
	want := mount.Options{Size: 128 << 10, Inodes: n.mounter.options.Inodes, Context: "system_u:object_r:container_file_t:s0:c1,c2"}
	if diff := cmp.Diff(want, n.mounter.options); diff != "" {
		t.Error(diff)
	}
}

func TestUsing(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.store.set("b", fields{"b": "1"})
	n.mustPublish(t, n.request("w", "a,b"))
	n.mustPublish(t, n.request("v", "a"))
	for _, tt := range []struct {
		store, name string
		want        []string
	}{{"s", "a", []string{"v", "w"}}, {"s", "b", []string{"w"}}, {"s", "", []string{"v", "w"}}, {"s", "c", nil}, {"t", "", nil}} {
		if diff := cmp.Diff(tt.want, n.Using(tt.store, tt.name)); diff != "" {
			t.Errorf("Using(%q, %q): %s", tt.store, tt.name, diff)
		}
	}
}

func TestStats(t *testing.T) {
	n := newTmpfsNode(t)
	n.store.set("a", fields{"a": "1"})
	n.store.result = resolve.Result{RefreshInterval: 10 * time.Second}
	req := n.request("v", "a")
	req.Attributes["size"] = "64Ki"
	n.mustPublish(t, req)
	st, err := n.Stats("v", n.target("v"))
	if err != nil || st.UsedBytes == 0 || st.TotalBytes != 128<<10 || st.UsedInodes != 5 || st.Condition.Abnormal {
		t.Errorf("stats are %+v, %v", st, err)
	}
	if err := unix.Mount("x", n.target("v"), "tmpfs", 0, ""); err != nil { // which Mount could not have made
		t.Fatal(err)
	}
	if st, err := n.Stats("v", ""); err != nil || !st.Condition.Abnormal {
		t.Errorf("below another mount, stats are %+v, %v", st, err)
	}
	for _, args := range [][2]string{{"w", ""}, {"v", n.target("w")}} {
		if _, err := n.Stats(args[0], args[1]); !errors.Is(err, volume.ErrNotPublished) {
			t.Errorf("Stats(%q): %v, want ErrNotPublished", args, err)
		}
	}
}
