package stores

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// Resolver is what Set needs of resolve.Resolver.
type Resolver interface {
	// Install puts a store in service, or replaces the one of that name, and owns its provider from then on.
	Install(resolve.Store)
	// Remove takes a store out of service; a name that is not installed is no error.
	Remove(name string)
	// Resolve reads a secret that a component refers to.
	Resolve(context.Context, resolve.Request) (resolve.Result, error)
}

// Options configures a Set.
type Options struct {
	Drivers   []providers.Driver
	Plugins   func(typ string) (providers.Driver, bool) // finds drivers for types that Drivers has not; nil: none
	Resolver  Resolver
	Policy    func() *scope.Policy             // the policy in force, which decides about references
	LookupEnv func(name string) (string, bool) // for envRef; nil: os.LookupEnv
	// ServiceAccounts is handed to the drivers. Nil: the agent may not read service accounts.
	ServiceAccounts providers.ServiceAccounts
	Logger          *slog.Logger          // nil: discard
	Registerer      prometheus.Registerer // nil: no metrics
}

// Set is the stores of this agent. It is safe for concurrent use.
type Set struct {
	opts    Options
	drivers drivers
	metrics metrics
	wake    chan struct{} // level trigger: there is news
	ready   chan struct{}

	news struct { // what Run has not seen yet
		sync.Mutex
		applied    bool
		retry      bool
		components []component.Component // valid if applied
		changed    map[secretName]bool
	}

	stores map[string]*store              // key → store; for Run only
	wanted map[string]component.Component // key → what was applied; replaced, never changed

	shown struct { // what Status and Find return
		sync.RWMutex
		status map[string]Status // key → status
	}
}

// secretName is a secret that may have changed, by the key of its store; an empty name stands for all of the store.
type secretName struct{ store, name string }

// Status is the state of one store.
type Status struct {
	Key            string   // names the store among all
	Name           string   // as the manifest has it
	Namespace      string   // the manifest's metadata.namespace
	Type           string   // in lower case; of what is in service, if anything is
	Version        string   // as written
	Scopes         []string // app ids that may know of the store; empty: all
	Capabilities   []string // as Dapr's metadata API reports them; empty unless Open
	MissingIsEmpty bool     // see providers.Driver
	Selectors      providers.Selectors
	Open           bool   // in service, perhaps as an earlier manifest described it
	Reason         string // why the manifest is not in service as it stands, with the remedy; empty if it is
}

// New returns a Set without stores, which does nothing before Run.
func New(opts Options) *Set {
	if opts.LookupEnv == nil {
		opts.LookupEnv = os.LookupEnv
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Set{
		opts:    opts,
		drivers: drivers{byType(opts.Drivers), opts.Plugins},
		metrics: newMetrics(opts.Registerer),
		wake:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		stores:  map[string]*store{},
	}
	s.news.changed = map[secretName]bool{}
	s.shown.status = map[string]Status{}
	return s
}

// drivers are those that are compiled in and those of plugins, which come and go.
type drivers struct {
	builtin map[string]providers.Driver // type → driver
	plugins func(typ string) (providers.Driver, bool)
}

// find returns the driver of a type. One that is compiled in comes before a plugin.
func (d drivers) find(typ string) (providers.Driver, bool) {
	driver, ok := d.builtin[typ]
	if !ok && d.plugins != nil {
		return d.plugins(typ)
	}
	return driver, ok
}

func builtinOnly(all []providers.Driver) drivers { return drivers{builtin: byType(all)} }

func byType(drivers []providers.Driver) map[string]providers.Driver {
	m := make(map[string]providers.Driver, len(drivers))
	for _, d := range drivers {
		m[d.Type] = d
	}
	return m
}

// Apply hands over the wanted components, which replace those of the last call; their keys are unique. It never
// blocks: Run does the work. Whatever is wrong with a store is tried again, and the references of every store are read
// again, since a new policy usually comes with new components.
func (s *Set) Apply(components []component.Component) {
	s.news.Lock()
	s.news.components, s.news.applied = components, true
	s.news.Unlock()
	s.nudge()
}

// Changed tells that a secret may have changed; an empty name stands for every secret of the store. Stores that refer
// to it are resolved again and, if their properties then differ, opened again. It never blocks.
func (s *Set) Changed(store, name string) {
	s.news.Lock()
	s.news.changed[secretName{store, name}] = true
	s.news.Unlock()
	s.nudge()
}

// Retry tries every store again that is not as wanted: something beside the manifests has changed, such as which plugins
// there are. It never blocks.
func (s *Set) Retry() {
	s.news.Lock()
	s.news.retry = true
	s.news.Unlock()
	s.nudge()
}

func (s *Set) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Ready returns a channel that is closed once every component of the first Apply has been tried.
func (s *Set) Ready() <-chan struct{} { return s.ready }

// Status returns the state of each wanted store, sorted by key. A store appears when it is first tried.
func (s *Set) Status() []Status {
	s.shown.RLock()
	defer s.shown.RUnlock()
	all := make([]Status, 0, len(s.shown.status))
	for _, status := range s.shown.status {
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// Find returns the state of the store of a key, and whether Status has it. It is quick: every API call asks.
func (s *Set) Find(key string) (Status, bool) {
	s.shown.RLock()
	defer s.shown.RUnlock()
	status, ok := s.shown.status[key]
	return status, ok
}

// Close takes all stores out of service. It is called after Run has returned.
func (s *Set) Close() {
	for name := range s.stores {
		s.remove(name)
	}
}
