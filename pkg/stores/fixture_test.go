package stores_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/stores"
)

// canary is in every secret of the fixture and must be in no reason and no log line.
const canary = "canary-"

// backend is a store behind the fake driver, by the property "address".
type backend struct {
	mu       sync.Mutex
	opening  func(ctx context.Context) error // what Open does besides; nil: nothing
	secrets  map[string]map[string]string    // secret name → field → value
	opened   []providers.Properties          // properties of each successful Open
	identity providers.Identity              // of the last one
	closed   int
}

func (b *backend) set(name, field, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.secrets == nil {
		b.secrets = map[string]map[string]string{}
	}
	b.secrets[name] = map[string]string{field: value}
}

// during makes f part of every Open from now on.
func (b *backend) during(f func(ctx context.Context) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opening = f
}

// opens returns the properties of each successful Open, as text.
func (b *backend) opens() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := []string{}
	for _, p := range b.opened {
		all = append(all, string(p["password"].Reveal()))
	}
	return all
}

func (b *backend) open(ctx context.Context, cfg providers.Config) (providers.Provider, error) {
	b.mu.Lock()
	opening := b.opening
	b.mu.Unlock()
	if opening != nil {
		if err := opening(ctx); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened, b.identity = append(b.opened, cfg.Properties), cfg.Identity
	return &provider{backend: b}, nil
}

type provider struct{ backend *backend }

func (p *provider) Fetch(_ context.Context, q providers.Query) (providers.Payload, error) {
	p.backend.mu.Lock()
	defer p.backend.mu.Unlock()
	fields, ok := p.backend.secrets[q.Name]
	if !ok {
		return providers.Payload{}, providers.Errorf(providers.NotFound, "no such secret")
	}
	payload := providers.Payload{Fields: map[string]secret.Value{}}
	for name, value := range fields {
		payload.Fields[name] = secret.FromString(value)
	}
	return payload, nil
}

func (p *provider) Close() error {
	p.backend.mu.Lock()
	defer p.backend.mu.Unlock()
	p.backend.closed++
	return nil
}

var _ stores.Resolver = (*resolve.Resolver)(nil)

// resolver is the Resolver without a cache.
type resolver struct {
	mu        sync.Mutex
	installed map[string]resolve.Store
	events    []string // "+name" and "-name", in order
	refresh   time.Duration
}

func (r *resolver) Install(s resolve.Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.installed[s.Name]; ok {
		_ = old.Provider.Close()
	}
	r.installed[s.Name] = s
	r.events = append(r.events, "+"+s.Name)
}

func (r *resolver) Remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.installed[name]; ok {
		_ = old.Provider.Close()
		delete(r.installed, name)
		r.events = append(r.events, "-"+name)
	}
}

func (r *resolver) Resolve(ctx context.Context, req resolve.Request) (resolve.Result, error) {
	ref := req.Grant.Ref()
	if !req.Grant.IsReference() || req.Origin != "reference" {
		return resolve.Result{}, resolve.ErrNotGranted
	}
	r.mu.Lock()
	s, ok := r.installed[ref.Store]
	r.mu.Unlock()
	if !ok {
		return resolve.Result{}, &providers.Error{Store: ref.Store, Name: ref.Name, Kind: providers.Unavailable, Err: resolve.ErrStoreClosed}
	}
	payload, err := s.Provider.Fetch(ctx, providers.Query{Name: ref.Name})
	return resolve.Result{Payload: payload, RefreshInterval: r.refresh}, err
}

// take returns the events so far and forgets them.
func (r *resolver) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := strings.Join(r.events, " ")
	r.events = nil
	return s
}

// fixture is a running Set with one backend per address.
type fixture struct {
	t        *testing.T
	set      *stores.Set
	resolver *resolver
	backends map[string]*backend
	rules    scope.Rules
	live     scope.Live
	env      map[string]string
	log      strings.Builder
	plugins  map[string]providers.Driver // type → driver; changed only while nothing is under way
}

// drivers returns the fake driver under two types, the second of which can be read as the pod, and under a third for
// which a missing secret is an error.
func (f *fixture) drivers() []providers.Driver {
	fake := f.driver()
	twin := fake
	twin.Type, twin.Identities = "secretstores.twin", []providers.Identity{providers.AsAgent, providers.AsPod}
	plain := fake
	plain.Type, plain.MissingIsEmpty = "secretstores.plain", false
	return []providers.Driver{fake, twin, plain}
}

func (f *fixture) driver() providers.Driver {
	return providers.Driver{
		Type: "secretstores.fake",
		Properties: []providers.Property{
			{Name: "address", Required: true, Aliases: []string{"host"}},
			{Name: "password", Secret: true},
		},
		MultipleKeyValues: func(c providers.Config) bool { return c.Properties["multi"].Len() > 0 },
		MissingIsEmpty:    true,
		Open: func(ctx context.Context, cfg providers.Config) (providers.Provider, error) {
			b, ok := f.backends[string(cfg.Properties["address"].Reveal())]
			if !ok {
				return nil, providers.Errorf(providers.Invalid, "no backend there")
			}
			return b.open(ctx, cfg)
		},
	}
}

// run runs test in a bubble of fake time with a fixture whose backends have the given addresses.
func run(t *testing.T, addresses []string, test func(f *fixture)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{t: t, resolver: &resolver{installed: map[string]resolve.Store{}}, backends: map[string]*backend{}, env: map[string]string{}}
		for _, a := range addresses {
			f.backends[a] = &backend{}
		}
		f.set = stores.New(stores.Options{
			Drivers:   f.drivers(),
			Plugins:   func(typ string) (providers.Driver, bool) { d, ok := f.plugins[typ]; return d, ok },
			Logger:    slog.New(slog.NewTextHandler(&f.log, nil)),
			Resolver:  f.resolver,
			Policy:    f.live.Policy,
			LookupEnv: func(name string) (string, bool) { v, ok := f.env[name]; return v, ok },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.set.Run(ctx) }()
		test(f)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if strings.Contains(f.log.String(), canary) {
			t.Errorf("secret in the log:\n%s", f.log.String())
		}
		for _, status := range f.set.Status() {
			if strings.Contains(status.Reason, canary) {
				t.Errorf("secret in a reason: %s", status.Reason)
			}
		}
		f.set.Close()
		for address, b := range f.backends {
			if b.closed != len(b.opened) {
				t.Errorf("backend %s: %d opened, %d closed", address, len(b.opened), b.closed)
			}
		}
	})
}

// apply hands over components, with a policy that knows them, and waits until there is nothing more to do at once.
func (f *fixture) apply(components ...component.Component) {
	f.t.Helper()
	rules := f.rules
	for _, c := range components {
		rules.Stores = append(rules.Stores, scope.Store{Name: c.Name, Namespace: c.Namespace, Namespaced: c.Namespaced, Source: c.Position.String()})
	}
	policy, err := scope.NewPolicy(rules)
	if err != nil {
		f.t.Fatal(err)
	}
	f.live.Set(policy)
	f.set.Apply(components)
	synctest.Wait()
}

// pass lets time of the bubble pass, and what is due then.
func (f *fixture) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// reasons returns "name: open|closed: reason" of each store.
func (f *fixture) reasons() string {
	var lines []string
	for _, s := range f.set.Status() {
		state := "closed"
		if s.Open {
			state = "open"
		}
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", s.Key, state, s.Reason), ": "))
	}
	return strings.Join(lines, "\n")
}

// store returns a component of the fake type at an address of its own name.
func store(name string, items ...component.Item) component.Component {
	return component.Component{
		Name: name, Type: "secretstores.fake", InitTimeout: 5 * time.Second, SecretStore: "source",
		Metadata: append([]component.Item{value("address", name)}, items...),
		Position: component.Position{File: name + ".yaml", Line: 1},
	}
}

// line9 is where all items of the fixture are.
var line9 = component.Position{File: "m.yaml", Line: 9}

func value(name, text string) component.Item {
	return component.Item{Name: name, Value: secret.FromString(text), HasValue: true, Position: line9}
}

func ref(name, secretName, key string) component.Item {
	return component.Item{Name: name, SecretKeyRef: &component.KeyRef{Name: secretName, Key: key}, Position: line9}
}

func env(name, variable string) component.Item {
	return component.Item{Name: name, EnvRef: variable, Position: line9}
}
