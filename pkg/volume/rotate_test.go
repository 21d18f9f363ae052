package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

func (n *node) condition(t *testing.T, id string) volume.Condition {
	t.Helper()
	st, err := n.Stats(id, "")
	if err != nil {
		t.Fatal(err)
	}
	return st.Condition
}

func TestRotate(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"x": "1", "y": "1"})
		n.mustPublish(t, n.request("v", "[{name: a, path: .}]"))
		for _, tt := range []struct {
			stored  fields
			changed bool
		}{
			{fields{"x": "1", "y": "1"}, false},
			{fields{"x": "2", "y": "2"}, true},
			{fields{"x": "2", "z": "3"}, true},
			{fields{"x/a": "2", "y/b/c": "3"}, true},
			{fields{}, true},
			{fields{}, false},
			{fields{"x": "1"}, true},
		} {
			n.store.set("a", tt.stored)
			out, err := n.Rotate(t.Context(), "v")
			if err != nil || out.Changed != tt.changed {
				t.Errorf("rotate to %v: %+v, %v", tt.stored, out, err)
			}
			if diff := cmp.Diff(map[string]string(tt.stored), n.files(t, "v")); diff != "" {
				t.Error(diff)
			}
			if got := n.leftovers(t, "v"); len(got) > 0 {
				t.Errorf("the volume also holds %v", got)
			}
		}
	})
}

func TestFailedRotationKeepsTheFiles(t *testing.T) {
	n := newNode(t)
	n.store.set("a", fields{"a": "1"})
	n.store.set("b", fields{"b": "1"})
	n.mustPublish(t, n.request("v", "a,b"))
	old := n.files(t, "v")
	n.store.set("a", fields{"a": "2"})

	down := &providers.Error{Store: "s", Name: "b", Kind: providers.Unavailable, Err: errors.New("down")}
	for _, tt := range []struct {
		name           string
		break_, repair func()
		want           func(error) bool
		message        string
	}{
		{"store is down", func() { n.store.fail("b", down) }, func() { n.store.fail("b", nil) },
			func(err error) bool { return errors.Is(err, down) }, `secret "b" of store "s": down`},
		{"grant is revoked", func() { n.allow(t, "a") }, func() { n.allow(t) },
			is[*scope.DeniedError], `config.yaml:7: deniedSecrets of store "s" lists "a"`},
		{"field is hostile", func() { n.store.set("b", fields{"../b": "1"}) }, func() { n.store.set("b", fields{"b": "1"}) },
			is[*volume.InvalidError], `field "../b"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.break_()
			out, err := n.Rotate(t.Context(), "v")
			if err == nil || !tt.want(err) || out.Changed || time.Until(out.Next) < 50*time.Second {
				t.Errorf("rotate: %+v, %v", out, err)
			}
			if diff := cmp.Diff(old, n.files(t, "v")); diff != "" {
				t.Error(diff)
			}
			if c := n.condition(t, "v"); !c.Abnormal || !strings.Contains(c.Message, tt.message) {
				t.Errorf("condition is %+v, want %q in it", c, tt.message)
			}
			n.mustPublish(t, n.request("v", "a,b"))

			tt.repair()
			if _, err := n.Rotate(t.Context(), "v"); err != nil {
				t.Error(err)
			}
			if c := n.condition(t, "v"); c.Abnormal {
				t.Errorf("condition is %+v afterwards", c)
			}
			old = n.files(t, "v")
		})
	}
}

// TestRotationRepairsItself puts something in the way of the swap, before and after it takes effect.
func TestRotationRepairsItself(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"old": "1"})
		n.mustPublish(t, n.request("v", "[{name: a, path: .}]"))
		n.store.set("a", fields{"new": "2"})
		obstruct := func(at, name string) {
			n.at = func(step string) {
				if step == at {
					if err := os.Mkdir(filepath.Join(n.target("v"), name), 0o700); err != nil {
						t.Error(err)
					}
				}
			}
		}
		check := func(want fields) {
			t.Helper()
			if diff := cmp.Diff(map[string]string(want), n.files(t, "v")); diff != "" {
				t.Error(diff)
			}
			if got := n.leftovers(t, "v"); len(got) > 0 {
				t.Errorf("the volume also holds %v", got)
			}
		}

		obstruct("files written", "..data_tmp")
		if _, err := n.Rotate(t.Context(), "v"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("got %v, want what stood in the way", err)
		}
		check(fields{"old": "1"})

		obstruct("swapped", "new")
		if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed {
			t.Errorf("rotate: %+v, %v", out, err)
		}
		check(fields{"new": "2"})
	})
}

func TestStaleSecretsMakeAVolumeAbnormal(t *testing.T) {
	var log bytes.Buffer
	n := newNode(t, func(o *volume.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	n.store.set("a", fields{"a": "1"})
	n.store.stale = true
	n.mustPublish(t, n.request("v", "a"))
	if c := n.condition(t, "v"); !c.Abnormal || !strings.Contains(c.Message, `secret "a" of store "s" was last confirmed at`) {
		t.Errorf("condition is %+v", c)
	}
	if text := log.String(); !strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log of a stale secret: %s", text)
	}
	if out, err := n.Rotate(t.Context(), "v"); err != nil || !strings.Contains(out.Stale, "last confirmed at") {
		t.Errorf("rotate: %+v, %v", out, err)
	}
	n.store.stale = false
	if out, err := n.Rotate(t.Context(), "v"); err != nil || out.Stale != "" {
		t.Fatalf("rotate: %+v, %v", out, err)
	}
	if c := n.condition(t, "v"); c.Abnormal {
		t.Errorf("condition is %+v", c)
	}
}

func TestRotateMountsAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"a": "1"})
		n.mustPublish(t, n.request("v", "a"))
		if err := n.opts.Mounter.Unmount(n.target("v")); err != nil {
			t.Fatal(err)
		}
		if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed {
			t.Errorf("rotate: %+v, %v", out, err)
		}
		if diff := cmp.Diff(map[string]string{"a": "1"}, n.files(t, "v")); diff != "" {
			t.Error(diff)
		}
		n.restart(t)
		if err := n.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		if out, err := n.Rotate(t.Context(), "v"); err != nil || out.Changed {
			t.Errorf("rotate of the recovered volume: %+v, %v", out, err)
		}
	})
}

// tokensOf are tokens that are told apart by who made them.
type tokensOf string

func (tokensOf) Token(context.Context, string) (secret.Value, time.Time, error) {
	return secret.Value{}, time.Time{}, errors.New("no reader here wants one")
}

// TestRecoveredVolumesHaveTokensMade rotates with tokens from elsewhere until the kubelet brings some.
func TestRecoveredVolumesHaveTokensMade(t *testing.T) {
	var asked []scope.Identity
	made, brought := tokensOf("the agent"), tokensOf("the kubelet")
	n := newNode(t, func(o *volume.Options) {
		o.Tokens = func(id scope.Identity) providers.TokenSource {
			asked = append(asked, id)
			return made
		}
	})
	n.store.set("a", fields{"a": "1"})
	rotate := func(want providers.TokenSource) {
		t.Helper()
		if _, err := n.Rotate(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		if got := n.store.reads[len(n.store.reads)-1].Tokens; got != want {
			t.Errorf("the store was read with tokens of %v, want those of %v", got, want)
		}
	}
	req := n.request("v", "a")
	req.Tokens = brought
	n.mustPublish(t, req)
	rotate(brought)
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	rotate(made)
	n.mustPublish(t, req)
	rotate(brought)
	if diff := cmp.Diff([]scope.Identity{req.Identity}, asked); diff != "" {
		t.Errorf("tokens were made for (-want +got):\n%s", diff)
	}
}

func lease(d time.Duration) resolve.Result {
	return resolve.Result{Payload: providers.Payload{Lease: &providers.Lease{Duration: d}}}
}

// TestDueOfCachedAnswers counts a secret's life from when it was read, not from when the volume got it.
func TestDueOfCachedAnswers(t *testing.T) {
	for name, tt := range map[string]struct{ age, want time.Duration }{
		"young":             {time.Minute, 19 * time.Minute},
		"renewal is due":    {20 * time.Minute, 10 * time.Second},
		"renewal is missed": {25 * time.Minute, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			synctest.Test(t, func(t *testing.T) {
				n.store.set("a", fields{"a": "1"})
				n.store.result, n.store.age = lease(30*time.Minute), tt.age
				req := n.request("v", "a")
				req.Attributes["refreshInterval"] = "1h"
				n.mustPublish(t, req)
				if got := time.Until(n.due["v"]); got != tt.want {
					t.Errorf("due in %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// TestImpatientStoreDecides has a volume of two stores.
func TestImpatientStoreDecides(t *testing.T) {
	for _, first := range []time.Duration{10 * time.Second, 5 * time.Minute} {
		n := newNode(t)
		n.store.set("a", fields{"a": "1"})
		n.store.set("b", fields{"b": "1"})
		n.store.result.RefreshInterval = first
		n.store.intervals = map[string]time.Duration{"b": time.Minute}
		n.mustPublish(t, n.request("v", "a,b"))
		if got, want := time.Until(n.due["v"]), min(first, time.Minute); got > want || got < want*9/10 {
			t.Errorf("due in %v, want %v", got, want)
		}
	}
}

func TestDue(t *testing.T) {
	tests := []struct {
		name     string
		interval string
		result   resolve.Result
		expires  time.Duration // NotAfter, from now
		want     time.Duration
	}{
		{"nothing said", "", resolve.Result{}, 0, time.Minute},
		{"lease ends before the secret", "1h", lease(3 * time.Minute), 30 * time.Minute, 2 * time.Minute},
		{"lease ends after the secret", "1h", lease(30 * time.Minute), 3 * time.Minute, 2 * time.Minute},
		{"by the store", "", resolve.Result{RefreshInterval: 5 * time.Minute}, 0, 5 * time.Minute},
		{"by the volume", "10s", resolve.Result{RefreshInterval: 5 * time.Minute}, 0, 10 * time.Second},
		{"expires early", "1h", resolve.Result{}, 30 * time.Minute, 20 * time.Minute},
		{"expires late", "1m", resolve.Result{}, 30 * time.Minute, time.Minute},
		{"has expired", "1m", resolve.Result{}, -time.Minute, 10 * time.Second},
		{"expires soon", "1m", resolve.Result{}, 6 * time.Second, 6500 * time.Millisecond},
		{"expires at once", "1m", resolve.Result{}, time.Second, 10 * time.Second},
		{"lease", "1h", lease(3 * time.Minute), 0, 2 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			synctest.Test(t, func(t *testing.T) {
				n.store.set("a", fields{"a": "1"})
				n.store.result = tt.result
				if tt.expires != 0 {
					n.store.result.NotAfter = time.Now().Add(tt.expires)
				}
				req := n.request("v", "a")
				if tt.interval != "" {
					req.Attributes["refreshInterval"] = tt.interval
				}
				n.mustPublish(t, req)
				if got := time.Until(n.due["v"]); got != tt.want {
					t.Errorf("due in %v, want %v", got, tt.want)
				}
				if out, err := n.Rotate(t.Context(), "v"); err != nil || time.Until(out.Next) != tt.want {
					t.Errorf("next in %v, %v, want %v", time.Until(out.Next), err, tt.want)
				}
				// What is at hand must not do, or a secret is renewed only after it has expired.
				if got := n.store.reads[1].MaxAge; got != tt.want*9/10 {
					t.Errorf("the rotation accepts an answer of %v, want %v", got, tt.want*9/10)
				}
			})
		})
	}
}

// TestReadersSeeOneGeneration reads two files while they are replaced together.
func TestReadersSeeOneGeneration(t *testing.T) {
	onBoth(t, func(t *testing.T, n *node) {
		n.store.set("a", fields{"x": "0", "y": "0"})
		n.mustPublish(t, n.request("v", "a"))
		stop, done := make(chan struct{}), make(chan int)
		go func() {
			whole := 0
			for {
				select {
				case <-stop:
					done <- whole
					return
				default:
				}
				if _, err := os.Readlink(filepath.Join(n.target("v"), "..data")); err != nil {
					t.Error("for a moment, there was no generation:", err)
				}
				// A handle on the generation stays on it; only that it is being removed can be seen.
				data, err := os.OpenRoot(filepath.Join(n.target("v"), "..data"))
				if errors.Is(err, fs.ErrNotExist) {
					continue // removed between reading the link and following it
				}
				if err != nil {
					t.Error(err)
					continue
				}
				x, errX := data.ReadFile("a/x")
				y, errY := data.ReadFile("a/y")
				data.Close()
				if errX == nil && errY == nil {
					whole++
					if string(x) != string(y) {
						t.Errorf("one generation holds %q and %q", x, y)
					}
				} else if !errors.Is(errors.Join(errX, errY), fs.ErrNotExist) {
					t.Error(errX, errY)
				}
			}
		}()
		for i := range 300 {
			n.store.set("a", fields{"x": fmt.Sprint(i + 1), "y": fmt.Sprint(i + 1)})
			if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed {
				t.Fatal(out, err)
			}
		}
		close(stop)
		if <-done == 0 {
			t.Error("nothing was ever read")
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	n := newNode(t, func(o *volume.Options) { o.Registerer = reg })
	n.store.set("a", fields{"a": "1"})
	n.mustPublish(t, n.request("v", "a"))
	n.mustPublish(t, n.request("v", "a"))
	_ = n.Publish(t.Context(), n.request("w", "missing"))
	_, _ = n.Rotate(t.Context(), "v")
	n.store.set("a", fields{"a": "2"})
	_, _ = n.Rotate(t.Context(), "v")
	n.allow(t, "a")
	_, _ = n.Rotate(t.Context(), "v")
	want := fmt.Sprintf(`
# HELP keywell_volume_abnormal Volumes whose condition is abnormal.
# TYPE keywell_volume_abnormal gauge
keywell_volume_abnormal 1
# HELP keywell_volume_bytes Bytes of whole pages that the files of all volumes take.
# TYPE keywell_volume_bytes gauge
keywell_volume_bytes %d
# HELP keywell_volume_publish_total Publish calls by result; unchanged ones found their volume correct.
# TYPE keywell_volume_publish_total counter
keywell_volume_publish_total{result="published"} 1
keywell_volume_publish_total{result="store"} 1
keywell_volume_publish_total{result="unchanged"} 1
# HELP keywell_volume_published Volumes on this node.
# TYPE keywell_volume_published gauge
keywell_volume_published 1
# HELP keywell_volume_rotations_total Rotations by result.
# TYPE keywell_volume_rotations_total counter
keywell_volume_rotations_total{result="changed"} 1
keywell_volume_rotations_total{result="denied"} 1
keywell_volume_rotations_total{result="unchanged"} 1
`, os.Getpagesize())
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "keywell_volume_abnormal", "keywell_volume_bytes",
		"keywell_volume_publish_total", "keywell_volume_published", "keywell_volume_rotations_total"); err != nil {
		t.Error(err)
	}
}
