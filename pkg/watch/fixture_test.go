package watch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

const store = "s"

// fixture is a Hub before a real resolver, with one store in memory.
type fixture struct {
	*watch.Hub
	t        *testing.T
	memory   *providertest.Memory
	resolver *resolve.Resolver
	policy   *scope.Live
	registry *prometheus.Registry
}

// bubble runs a test of a fixture in a synctest bubble. Every subscription must be closed at its end.
func bubble(t *testing.T, opts watch.Options, settings resolve.Settings, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{t: t, memory: providertest.NewMemory(), policy: &scope.Live{}, registry: prometheus.NewRegistry()}
		f.resolver = resolve.New(resolve.Options{Changed: func(store, name string) { f.Changed(store, name) }})
		opts.Policy, opts.Resolver, opts.Registerer = f.policy, f.resolver, f.registry
		f.Hub = watch.New(opts)
		f.rules()
		f.install(settings)
		test(f)
		f.resolver.Close()
	})
}

// silent hides that a provider can tell of changes.
type silent struct{ providers.Provider }

func (s silent) List(ctx context.Context, q providers.Query) ([]string, error) {
	return s.Provider.(providers.Lister).List(ctx, q)
}

// install puts the store in service. Its provider tells of no changes.
func (f *fixture) install(settings resolve.Settings) {
	f.resolver.Install(resolve.Store{Name: store, Provider: silent{f.memory.Provider()}, Settings: settings})
}

// rules puts a policy in force that denies names.
func (f *fixture) rules(denied ...string) {
	f.t.Helper()
	p, err := scope.NewPolicy(scope.Rules{
		Stores: []scope.Store{{Name: store, Source: "s.yaml:1"}, {Name: "other", Source: "s.yaml:2"}},
		Scopes: []scope.StoreScope{{Store: store, Denied: denied, Source: "c.yaml:1"}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.policy.Set(p)
	f.PolicyChanged()
}

func (f *fixture) put(name, value string) {
	f.memory.Put(name, map[string]string{name: value})
}

func caller(app string) scope.Identity { return scope.Identity{AppID: app} }

func (f *fixture) subscribe(app string, names ...string) *subscription {
	f.t.Helper()
	refs := make([]scope.Ref, len(names))
	for i, name := range names {
		refs[i] = scope.Ref{Store: store, Name: name}
	}
	s, err := f.Subscribe(f.t.Context(), caller(app), refs, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return &subscription{s, f.t}
}

type subscription struct {
	*watch.Subscription
	t *testing.T
}

// want takes what is new once everything has come to rest: "name=value", "name stale=true" or "name: kind" for each.
func (s *subscription) want(want ...string) {
	s.t.Helper()
	got, err := s.take()
	if err != nil {
		s.t.Errorf("Take: %v", err)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		s.t.Errorf("got %q, want %q", got, want)
	}
}

// take takes until there is nothing more.
func (s *subscription) take() (all []string, err error) {
	for {
		synctest.Wait()
		select {
		case <-s.Ready():
		default:
			return all, nil
		}
		updates, err := s.Take(s.t.Context())
		if err != nil {
			return all, err
		}
		for _, u := range updates {
			all = append(all, text(u))
		}
	}
}

func text(u watch.Update) string {
	switch {
	case errors.Is(u.Err, resolve.ErrStoreClosed):
		return u.Ref.Name + ": closed"
	case u.Err != nil:
		return fmt.Sprintf("%s: %v", u.Ref.Name, providers.KindOf(u.Err))
	case u.Result == nil:
		return fmt.Sprintf("%s stale=%t", u.Ref.Name, u.Stale)
	default:
		value := u.Result.Fields[u.Ref.Name]
		return u.Ref.Name + "=" + string(value.Reveal())
	}
}
