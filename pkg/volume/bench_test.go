package volume_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keywell/keywell/pkg/volume/mount"
)

// tenFiles is a small secret.
func tenFiles() fields {
	f := fields{}
	for i := range 10 {
		f[fmt.Sprintf("field%d", i)] = "0123456789abcdef0123456789abcdef"
	}
	return f
}

// BenchmarkBare is the least that a volume of ten files can cost: a tmpfs, the files, and its end.
func BenchmarkBare(b *testing.B) {
	n := newTmpfsNode(b)
	target := n.target("v")
	secret := tenFiles()
	for b.Loop() {
		place, err := n.opts.Mounter.Prepare(target)
		if err != nil {
			b.Fatal(err)
		}
		err = place.Mount(mount.Options{Size: 1 << 20, Inodes: 100}, func(dir mount.Dir, _ uint64) error {
			root, err := dir.Root()
			if err != nil {
				return err
			}
			defer root.Close()
			for name, value := range secret {
				if err := root.WriteFile(name, []byte(value), 0o444); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, place.Close()); err != nil {
			b.Fatal(err)
		}
		if err := n.opts.Mounter.Unmount(target); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish publishes and unpublishes a volume of ten files, records included.
func BenchmarkPublish(b *testing.B) {
	n := newTmpfsNode(b)
	n.store.set("a", tenFiles())
	req := n.request("v", "a")
	for b.Loop() {
		n.mustPublish(b, req)
		if err := n.Unpublish(b.Context(), "v", req.TargetPath); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRepublish is what the kubelet does to every volume, about every minute.
func BenchmarkRepublish(b *testing.B) {
	n := newTmpfsNode(b)
	n.store.set("a", tenFiles())
	req := n.request("v", "a")
	n.mustPublish(b, req)
	for b.Loop() {
		n.mustPublish(b, req)
	}
}

func BenchmarkRotate(b *testing.B) {
	for _, changed := range []bool{false, true} {
		b.Run(fmt.Sprintf("changed=%v", changed), func(b *testing.B) {
			n := newTmpfsNode(b)
			secret := tenFiles()
			n.store.set("a", secret)
			n.mustPublish(b, n.request("v", "a"))
			for i := 0; b.Loop(); i++ {
				if changed {
					secret["field0"] = fmt.Sprint(i)
				}
				if out, err := n.Rotate(b.Context(), "v"); err != nil || out.Changed != changed {
					b.Fatal(out, err)
				}
			}
		})
	}
}

// BenchmarkRecover finds a hundred volumes.
func BenchmarkRecover(b *testing.B) {
	n := newTmpfsNode(b)
	n.store.set("a", tenFiles())
	for i := range 100 {
		n.mustPublish(b, n.request(fmt.Sprint("v", i), "a"))
	}
	for b.Loop() {
		n.restart(b)
		if err := n.Recover(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if got := n.records(b); len(got) != 100 {
		b.Error(len(got), "records")
	}
}
