package component

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// settle is how long after the first sign of a change the sources are read: an editor or kubelet makes several
	// changes in a row.
	settle = 100 * time.Millisecond
	// resync is how often they are read without any sign, for file systems that give none.
	resync = 30 * time.Second
)

// WatcherOptions configures a Watcher.
type WatcherOptions struct {
	Sources Sources
	// OnChange is called from Run with each new state, one call at a time, and is required. The next change waits for it
	// to return.
	OnChange   func(*Manifests, []Problem)
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Watcher keeps Manifests equal to their sources while these change. It reads everything again at any sign of change,
// so that no single notification matters, and decodes the files whose content differs.
type Watcher struct {
	opts     WatcherOptions
	loads    prometheus.Counter
	problems *prometheus.GaugeVec
}

// NewWatcher returns a Watcher, which does nothing before Run.
func NewWatcher(opts WatcherOptions) *Watcher {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	factory := promauto.With(opts.Registerer)
	return &Watcher{
		opts: opts,
		loads: factory.NewCounter(prometheus.CounterOpts{
			Name: "keywell_component_changes_total", Help: "New states of the manifests, the first one included.",
		}),
		problems: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keywell_component_problems", Help: "Problems in the manifests as they stand.",
		}, []string{"severity"}),
	}
}

// Run delivers the state that it finds, then each new one, until ctx ends; then it returns nil. An error means that the
// system gives no notifications at all.
func (w *Watcher) Run(ctx context.Context) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer notify.Close()

	s := newSnapshot(w.opts.Sources)
	w.load(s, notify)
	tick := time.NewTicker(resync)
	defer tick.Stop()
	var due <-chan time.Time // nil: nothing to do
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-notify.Events:
			if due == nil && s.concerns(e.Name) {
				due = time.After(settle)
			}
		case err := <-notify.Errors:
			w.opts.Logger.Warn("watching manifests is incomplete", "err", err)
			due = time.After(settle)
		case <-tick.C:
			due = time.After(0)
		case <-due:
			due = nil
			w.load(s, notify)
		}
	}
}

// load watches first and reads then, so that no change falls between.
func (w *Watcher) load(s *snapshot, notify *fsnotify.Watcher) {
	w.follow(s.folders(), notify)
	manifests, problems, changed := s.load()
	if !changed {
		return
	}
	w.loads.Inc()
	for _, severity := range []Severity{Note, Warning, Error} {
		n := 0
		for _, p := range problems {
			if p.Severity == severity {
				n++
			}
		}
		w.problems.WithLabelValues(severity.String()).Set(float64(n))
	}
	w.opts.OnChange(manifests, problems)
}

// follow watches folders and no others. Adding one that is watched already costs nothing and catches up with a folder
// that was replaced under its name.
func (w *Watcher) follow(folders []string, notify *fsnotify.Watcher) {
	for _, old := range notify.WatchList() {
		if !slices.Contains(folders, old) {
			_ = notify.Remove(old) // it may be gone
		}
	}
	for _, folder := range folders {
		if err := notify.Add(folder); err != nil && !os.IsNotExist(err) {
			w.opts.Logger.Warn("manifests are read every "+resync.String()+" only", "path", folder, "err", err)
		}
	}
}

// folders returns every folder in which a change may concern the sources: where the files are, by their names and by
// what these names point to, and the nearest folder above each source that exists, in which it may appear again. They
// are free of symbolic links, because one folder must not be watched under two names.
func (s *snapshot) folders() []string {
	s.places, s.inside = nil, nil
	var above []string
	for _, source := range slices.Concat(s.src.Directories, s.src.Files) {
		folder, place := anchor(source)
		above = append(above, folder)
		s.places = append(s.places, place)
	}
	for _, dir := range s.src.Directories {
		s.inside = append(s.inside, resolved(dir))
		paths, _ := list(dir) // an error shows when the sources are read
		for _, path := range paths {
			s.inside = append(s.inside, filepath.Dir(resolved(path)))
		}
	}
	for _, path := range s.src.Files {
		s.inside = append(s.inside, resolved(filepath.Dir(path)), filepath.Dir(resolved(path)))
	}
	all := slices.Concat(above, s.inside)
	slices.Sort(all)
	return slices.Compact(all)
}

// concerns reports whether a change of path may change the sources. A change above them does only if it is on the way
// to one.
func (s *snapshot) concerns(path string) bool {
	return slices.Contains(s.inside, path) || slices.Contains(s.inside, filepath.Dir(path)) ||
		slices.ContainsFunc(s.places, func(place string) bool {
			return place == path || strings.HasPrefix(place, path+string(filepath.Separator))
		})
}

// anchor returns the nearest folder above path that exists, and path as seen from there, both with the symbolic links
// above path followed.
func anchor(path string) (folder, place string) {
	folder = filepath.Dir(path)
	for {
		if info, err := os.Stat(folder); (err == nil && info.IsDir()) || folder == filepath.Dir(folder) {
			break
		}
		folder = filepath.Dir(folder)
	}
	rest, err := filepath.Rel(folder, path)
	if err != nil { // one of the two is absolute and the other is not, which can't be
		return folder, path
	}
	folder = resolved(folder)
	return folder, filepath.Join(folder, rest)
}

// resolved returns what path points to, or path if that is not there.
func resolved(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}
