package localfile_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
)

// records is a log handler that keeps the levels of what was logged.
type records struct {
	mu     sync.Mutex
	levels []string
	texts  []string
}

func (r *records) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (r *records) WithAttrs([]slog.Attr) slog.Handler               { return r }
func (r *records) WithGroup(string) slog.Handler                    { return r }

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.levels = append(r.levels, rec.Level.String())
	rec.Attrs(func(a slog.Attr) bool {
		r.texts = append(r.texts, a.Value.String())
		return true
	})
	return nil
}

// take returns the levels since the last call.
func (r *records) take(t *testing.T) []string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.Contains(strings.Join(r.texts, "\n"), "c4n4ry") {
		t.Errorf("the log holds content of the file: %q", r.texts)
	}
	levels := r.levels
	r.levels, r.texts = nil, nil
	return levels
}

// notify runs Notify in the background and returns the names that it reports.
func notify(t *testing.T, p providers.Provider) <-chan string {
	t.Helper()
	names := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.(providers.Notifier).Notify(ctx, func(name string) { names <- name }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Notify: %v", err)
		}
	})
	return names
}

// wantNames fails unless exactly want is reported next.
func wantNames(t *testing.T, names <-chan string, want ...string) {
	t.Helper()
	var got []string
	for range want {
		select {
		case name := <-names:
			got = append(got, name)
		case <-time.After(10 * time.Second):
			t.Fatalf("%q were reported, want %q", got, want)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("mismatch (-want +got):\n%s", diff)
	}
}

func TestNotifyNamesWhatChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	write := func(text string) { rename(t, path, []byte(text)) }
	write(`{"same":"1","changed":{"x":"1","y":"2"},"removed":"1"}`)
	names := notify(t, open(t, nil, map[string]string{"secretsfile": path, "multivalued": "true"}))
	write(`{ "added":"1", "changed":{"x":"1","y":"3"}, "same":"1" }`)
	wantNames(t, names, "added", "changed", "removed")
	write(`{"added":"1","changed":{"x":"1"},"same":"1"}`)
	wantNames(t, names, "changed")
	write(`{"same":"1"}`) // had the write before reported more, it would come first
	wantNames(t, names, "added", "changed")
}

// TestNotifyBadFile checks that a file that can't be used is no change, and that what changed meanwhile is one.
func TestNotifyBadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	inPlace(t, path, []byte(`{"a":"1","b":"1"}`))
	log := &records{}
	p := open(t, slog.New(log), map[string]string{"secretsfile": path})
	names := notify(t, p)
	rename(t, path, []byte(`{"a":"c4n4ry"`))
	fetch(t, p, "a")
	must(t, os.Remove(path))
	fetch(t, p, "a")
	rename(t, path, []byte(`{"a":"1","b":"2"}`))
	wantNames(t, names, "b")
	if diff := cmp.Diff([]string{"WARN", "WARN", "INFO"}, log.take(t)); diff != "" {
		t.Errorf("log mismatch (-want +got):\n%s", diff)
	}
}

// TestNotifyAfterFetch checks that a change is reported although a Fetch saw it first.
func TestNotifyAfterFetch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	rename(t, path, []byte(`{"a":"1"}`))
	p := open(t, nil, map[string]string{"secretsfile": path})
	names := notify(t, p)
	rename(t, path, []byte(`{"a":"2"}`))
	wantNames(t, names, "a")
	rename(t, path, []byte(`{"a":"3"}`))
	if got := fetch(t, p, "a"); got != "3" {
		t.Fatalf("Fetch = %q", got)
	}
	wantNames(t, names, "a")
}

// TestNotifySeesEveryWayToReplaceAFile covers the links and directories between a path and its file.
func TestNotifySeesEveryWayToReplaceAFile(t *testing.T) {
	const before, after = `{"a":"before"}`, `{"a":"after"}`
	for name, prepare := range map[string]func(t *testing.T, dir string) (path string, replace func()){
		"in place": func(t *testing.T, dir string) (string, func()) {
			path := filepath.Join(dir, "secrets.json")
			inPlace(t, path, []byte(before))
			return path, func() { inPlace(t, path, []byte(after)) }
		},
		"removed and created": func(t *testing.T, dir string) (string, func()) {
			path := filepath.Join(dir, "secrets.json")
			inPlace(t, path, []byte(before))
			return path, func() { must(t, os.Remove(path)); inPlace(t, path, []byte(after)) }
		},
		"mounted ConfigMap": func(t *testing.T, dir string) (string, func()) {
			version := func(name, text string) {
				must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
				inPlace(t, filepath.Join(dir, name, "secrets.json"), []byte(text))
				must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
				must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
			}
			version("..1", before)
			must(t, os.Symlink("..data/secrets.json", filepath.Join(dir, "secrets.json")))
			return filepath.Join(dir, "secrets.json"), func() {
				version("..2", after)
				must(t, os.RemoveAll(filepath.Join(dir, "..1")))
			}
		},
		"link to elsewhere": func(t *testing.T, dir string) (string, func()) {
			elsewhere := filepath.Join(t.TempDir(), "real.json")
			inPlace(t, elsewhere, []byte(before))
			must(t, os.Symlink(elsewhere, filepath.Join(dir, "secrets.json")))
			return filepath.Join(dir, "secrets.json"), func() { rename(t, elsewhere, []byte(after)) }
		},
		"directory replaced": func(t *testing.T, dir string) (string, func()) {
			sub := filepath.Join(dir, "sub")
			must(t, os.Mkdir(sub, 0o700))
			inPlace(t, filepath.Join(sub, "secrets.json"), []byte(before))
			return filepath.Join(sub, "secrets.json"), func() {
				must(t, os.Rename(sub, sub+".old"))
				must(t, os.Mkdir(sub, 0o700))
				inPlace(t, filepath.Join(sub, "secrets.json"), []byte(after))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, replace := prepare(t, t.TempDir())
			p := open(t, nil, map[string]string{"secretsfile": path})
			names := notify(t, p)
			replace()
			wantNames(t, names, "a")
			if got := fetch(t, p, "a"); got != "after" {
				t.Errorf("Fetch = %q", got)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
