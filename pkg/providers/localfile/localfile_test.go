package localfile_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/localfile"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

func TestConformance(t *testing.T) {
	for _, multiValued := range []bool{false, true} {
		for name, write := range map[string]func(*testing.T, string, []byte){"rename": rename, "in place": inPlace} {
			t.Run("multiValued="+strconv.FormatBool(multiValued)+"/"+name, func(t *testing.T) {
				t.Parallel()
				providertest.Run(t, providertest.Harness{
					MultiField: multiValued,
					Lists:      true,
					Notifies:   true,
					Open: func(t *testing.T, log *slog.Logger) providertest.Store {
						return openJSON(t, multiValued, write, log)
					},
				})
			})
		}
	}
}

// openJSON opens a file that holds an object and is written whole on every change.
func openJSON(t *testing.T, multiValued bool, write func(*testing.T, string, []byte), log *slog.Logger) providertest.Store {
	path := filepath.Join(t.TempDir(), "secrets.json")
	tree := map[string]any{}
	save := func() {
		data, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, data)
	}
	remove := func(name string) {
		delete(tree, name)
		save()
	}
	save()
	return providertest.Store{
		Provider: open(t, log, map[string]string{"secretsfile": path, "multivalued": strconv.FormatBool(multiValued)}),
		Put: func(name string, fields map[string]string) string {
			if tree[name] = fields[name]; multiValued {
				tree[name] = fields
			}
			save()
			return ""
		},
		Delete: remove,
		Faults: map[providers.Kind]func(string){providers.NotFound: remove},
	}
}

func rename(t *testing.T, path string, data []byte) {
	t.Helper()
	inPlace(t, path+".new", data)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func inPlace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func config(log *slog.Logger, metadata map[string]string) providers.Config {
	props := providers.Properties{}
	for name, value := range metadata {
		props[name] = secret.FromString(value)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return providers.Config{Name: "file", Properties: props, Logger: log}
}

func open(t *testing.T, log *slog.Logger, metadata map[string]string) providers.Provider {
	t.Helper()
	p, err := localfile.Driver().Open(t.Context(), config(log, metadata))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// fetch returns the one field of a secret, or the error's text.
func fetch(t *testing.T, p providers.Provider, name string) string {
	t.Helper()
	payload, err := p.Fetch(t.Context(), providers.Query{Name: name})
	if err != nil {
		return err.Error()
	}
	return string(payload.Fields[name].Reveal())
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		inPlace(t, path, []byte(text))
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	large := file("large", "{}")
	if err := os.Truncate(large, 16<<20+1); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		path string
		kind providers.Kind
		text string // part of the error
	}{
		"no path":          {"", providers.Invalid, `"secretsFile" is required`},
		"no file":          {filepath.Join(dir, "missing"), providers.Unavailable, "no such file"},
		"malformed":        {file("malformed", "{\n\"a\": c4n4ry}"), providers.Unavailable, "line 2, column 6: not valid JSON"},
		"a directory":      {dir, providers.Invalid, "not a regular file"},
		"a pipe":           {fifo, providers.Invalid, "not a regular file"},
		"more than 16 MiB": {large, providers.Unavailable, "larger than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := localfile.Driver().Open(t.Context(), config(nil, map[string]string{"secretsfile": tt.path}))
			if err == nil || providers.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v of kind %v, want %v with %q", err, providers.KindOf(err), tt.kind, tt.text)
			}
		})
	}
}

func TestRelativePath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	inPlace(t, "secrets.json", []byte(`{"a":"1"}`))
	p := open(t, nil, map[string]string{"secretsfile": "secrets.json"})
	t.Chdir("/")
	inPlace(t, filepath.Join(dir, "secrets.json"), []byte(`{"a":"22"}`))
	if got := fetch(t, p, "a"); got != "22" {
		t.Errorf("after a change of directory: %q", got)
	}
}

func TestMissingText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	inPlace(t, path, []byte(`{}`))
	if got := fetch(t, open(t, nil, map[string]string{"secretsfile": path}), "db"); got != "secret db not found" {
		t.Errorf("error text %q differs from Dapr's", got)
	}
}

// TestLastGoodContent walks a file through every state in which it can't be used.
func TestLastGoodContent(t *testing.T) {
	log := &records{}
	path := filepath.Join(t.TempDir(), "secrets.json")
	inPlace(t, path, []byte(`{"a":"good"}`))
	p := open(t, slog.New(log), map[string]string{"secretsfile": path})
	for _, step := range []struct {
		name   string
		change func()
		want   string
		logged []string
	}{
		{"malformed", func() { inPlace(t, path, []byte(`{"a":"c4n4ry`)) }, "good", []string{"WARN"}},
		{"malformed in the same way", func() { inPlace(t, path, []byte(`{"b":"c4n4ry`)) }, "good", nil},
		{"empty", func() { inPlace(t, path, nil) }, "good", []string{"WARN"}},
		{"removed", func() { os.Remove(path) }, "good", []string{"WARN"}},
		{"a directory", func() { os.Mkdir(path, 0o700) }, "good", []string{"WARN"}},
		{"good again", func() { os.Remove(path); inPlace(t, path, []byte(`{"a":"better"}`)) }, "better", []string{"INFO"}},
		{"better still", func() { rename(t, path, []byte(`{"a":"best"}`)) }, "best", nil},
	} {
		step.change()
		for range 3 {
			if got := fetch(t, p, "a"); got != step.want {
				t.Errorf("%s: Fetch = %q, want %q", step.name, got, step.want)
			}
		}
		if diff := cmp.Diff(step.logged, log.take(t)); diff != "" {
			t.Errorf("%s: log mismatch (-want +got):\n%s", step.name, diff)
		}
	}
}

// TestSettledFile checks that a file that was left alone is looked at, but not read, on every call.
func TestSettledFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	old := time.Now().Add(-time.Hour)
	write := func(text string, at time.Time) {
		inPlace(t, path, []byte(text))
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"a":"1"}`, old)
	p := open(t, nil, map[string]string{"secretsfile": path})
	write(`{"a":"2"}`, old)
	if got := fetch(t, p, "a"); got != "1" {
		t.Errorf("a file that looks the same was read again: %q", got)
	}
	write(`{"a":"2"}`, old.Add(time.Nanosecond))
	if got := fetch(t, p, "a"); got != "2" {
		t.Errorf("a new modification time went unnoticed: %q", got)
	}
	write(`{"a":"33"}`, old.Add(time.Nanosecond))
	if got := fetch(t, p, "a"); got != "33" {
		t.Errorf("a new size went unnoticed: %q", got)
	}
}

// TestConcurrentReads edits a file while it is read: a reader never goes back to older content.
func TestConcurrentReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	rename(t, path, []byte(`{"a":"0"}`))
	p := open(t, nil, map[string]string{"secretsfile": path})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for last := 0; ; {
				n, err := strconv.Atoi(fetch(t, p, "a"))
				if err != nil || n < last {
					t.Errorf("read %d after %d: %v", n, last, err)
					return
				}
				last = n
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 200 {
		rename(t, path, []byte(`{"a":`+strconv.Itoa(i)+`}`))
	}
	close(stop)
	readers.Wait()
}

// TestUnsettledFile edits a file so soon after it was read that size and time can't tell: it is read again.
func TestUnsettledFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.json")
	for range 100 { // until the machine is quick enough for the test
		inPlace(t, path, []byte(`{"a":"1"}`))
		stamp := time.Now()
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		p := open(t, nil, map[string]string{"secretsfile": path})
		inTime := time.Since(stamp) < 100*time.Millisecond
		inPlace(t, path, []byte(`{"a":"2"}`))
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		if !inTime {
			continue
		}
		if got := fetch(t, p, "a"); got != "2" {
			t.Errorf("got %q", got)
		}
		return
	}
	t.Skip("the machine is too slow to read a file within 100 ms of writing it")
}
