package daprplugin

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	// typePrefix is what Dapr puts before the name of a socket.
	typePrefix = "secretstores."
	// multiple is the feature of a plugin whose secrets may have several fields.
	multiple = "MULTIPLE_KEY_VALUES_PER_SECRET"
	// poll is how often the directory is looked at without an event: it may not exist yet.
	poll = 5 * time.Second
)

// Directory is a directory of plugins' sockets. It is safe for concurrent use.
type Directory struct {
	path string

	mu    sync.Mutex
	known map[string]string // type → path of the socket; a plugin that is away for a while stays known
}

// New returns the Directory at path, which need not exist yet.
func New(path string) *Directory { return &Directory{path: path, known: map[string]string{}} }

// Driver returns the driver of a type that a socket has, or had.
func (d *Directory) Driver(typ string) (providers.Driver, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[typ]; !ok {
		maps.Copy(d.known, d.sockets())
	}
	path, ok := d.known[typ]
	return driverOf(typ, path), ok
}

// Drivers returns the drivers of all sockets, in the order of their types.
func (d *Directory) Drivers() []providers.Driver {
	var all []providers.Driver
	sockets := d.sockets()
	for _, typ := range slices.Sorted(maps.Keys(sockets)) {
		all = append(all, driverOf(typ, sockets[typ]))
	}
	return all
}

// sockets returns type → path of all sockets that are there now.
func (d *Directory) sockets() map[string]string {
	entries, _ := os.ReadDir(d.path) // sorted; none if it can't be read
	sockets := map[string]string{}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			continue
		}
		name := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		typ := typePrefix + strings.ToLower(name)
		if _, taken := sockets[typ]; name != "" && !taken {
			sockets[typ] = filepath.Join(d.path, e.Name())
		}
	}
	return sockets
}

// Run calls changed when sockets have come, gone or been replaced, until ctx ends; then it returns nil.
func (d *Directory) Run(ctx context.Context, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.path, err)
	}
	defer watcher.Close()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	last := map[string]time.Time{} // what is there already is news to those who looked before
	for {
		_ = watcher.Add(d.path) // where that fails, it is looked at every poll
		if now := d.identities(); !maps.Equal(now, last) {
			last = now
			changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
		case <-watcher.Errors: // a lost event is found by the next look
		case <-tick.C:
		}
	}
}

// identities returns path → when the socket there was made.
func (d *Directory) identities() map[string]time.Time {
	made := map[string]time.Time{}
	for _, path := range d.sockets() {
		if info, err := os.Lstat(path); err == nil {
			made[path] = info.ModTime()
		}
	}
	return made
}

// driverOf returns the driver of the plugin whose socket is at path.
func driverOf(typ, path string) providers.Driver {
	var several atomic.Bool // what the plugin said when a store was opened
	return providers.Driver{
		Type:              typ,
		AnyProperties:     true,
		MultipleKeyValues: func(providers.Config) bool { return several.Load() },
		Open: func(ctx context.Context, cfg providers.Config) (providers.Provider, error) {
			s := newStore(path, cfg)
			session, err := s.use(ctx)
			if err != nil {
				_ = s.Close() // it has no session
				return nil, err
			}
			several.Store(slices.Contains(session.features, multiple))
			return s, nil
		},
	}
}
