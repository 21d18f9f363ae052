package stores

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// Resolver is what Set needs of resolve.Resolver.
type Resolver interface {
	// Install puts a store in service, or replaces the one of that name, whose provider it then closes.
	Install(resolve.Store)
	// Remove takes a store out of service and closes its provider.
	Remove(name string)
	Resolve(ctx context.Context, req resolve.Request) (resolve.Result, error)
}

// Options configures a Set.
type Options struct {
	Drivers    []providers.Driver
	Resolver   Resolver
	Policy     func() *scope.Policy             // the policy in force, which decides about references
	LookupEnv  func(name string) (string, bool) // for envRef; nil: os.LookupEnv
	Logger     *slog.Logger                     // nil: discard
	Registerer prometheus.Registerer            // nil: no metrics
}

// Set is the stores of this agent. It is safe for concurrent use.
type Set struct{ opts Options }

// New returns a Set without stores, which does nothing before Run.
func New(opts Options) *Set { return &Set{opts: opts} }

// Apply hands over the wanted components, which replace those of the last call. It never blocks; Run does the work.
func (s *Set) Apply(components []component.Component) {}

// Changed tells that a secret may have changed; an empty name means any of the store. Stores that refer to it are
// resolved again and, if their properties then differ, opened again. It never blocks.
func (s *Set) Changed(store, name string) {}

// Run keeps the stores equal to what was applied until ctx ends; then it returns nil. It must be called once.
func (s *Set) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Ready is closed when every component of the first Apply has been tried once.
func (s *Set) Ready() <-chan struct{} { return nil }

// Close removes all stores. It is called after Run has returned.
func (s *Set) Close() {}

// Status returns the state of each wanted store, sorted by name.
func (s *Set) Status() []Status { return nil }

// Status is the state of one store.
type Status struct {
	Name           string
	Namespace      string
	Type           string
	Version        string
	Scopes         []string // app ids that may know of the store; empty: all
	Capabilities   []string // as Dapr's metadata API reports them
	MissingIsEmpty bool     // see providers.Driver
	Open           bool     // in service, perhaps as an earlier version
	Reason         string   // why the manifest as it stands is not in service; empty if it is
}

// Check returns what Set would refuse or what looks like a mistake, without I/O to any store.
func Check(components []component.Component, drivers []providers.Driver) []component.Problem {
	return nil
}
