package localfile

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	// quiet is how long the file's directory must be left alone before an edit counts as finished.
	quiet = 50 * time.Millisecond
	// poll is how often the file is looked at without an event: where links lead out of the directory, the directory
	// itself was replaced, or the file system does not report changes.
	poll = 2 * time.Second
)

// Notify reports each secret that was added, changed or removed, by name.
func (s *store) Notify(ctx context.Context, changed func(name string)) error {
	known := s.held().secrets
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return providers.Errorf(providers.Unavailable, "watch secrets file %q: %w", s.path, err)
	}
	defer watcher.Close()

	due := time.NewTimer(0) // the first look finds what changed before the watch was set
	defer due.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.done:
			return providers.ErrClosed()
		case <-watcher.Events:
			due.Reset(quiet)
			continue
		case <-watcher.Errors: // a lost event is found by the next look
			due.Reset(quiet)
			continue
		case <-due.C:
		case <-tick.C:
		}
		s.watch(watcher)
		now, err := s.refresh(ctx)
		if err != nil {
			return nil
		}
		for _, name := range diff(known, now) {
			changed(name)
		}
		known = now
	}
}

// watch watches the directory in which the file, or the link to it, is replaced. It is called before every look,
// because the directory may be another than last time, and it may fail, because a look comes every poll anyway.
func (s *store) watch(watcher *fsnotify.Watcher) {
	if err := watcher.Add(filepath.Dir(s.path)); err != nil {
		s.log.Debug("directory of the secrets file is polled only", "err", err)
	}
}

// diff returns the names of the secrets that are not the same in a and b, sorted.
func diff(a, b content) []string {
	var names []string
	for name, fields := range a {
		if other, ok := b[name]; !ok || !maps.EqualFunc(fields, other, secret.Value.Equal) {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
