package resolve_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// alice is the caller of most tests.
var alice = scope.Identity{Namespace: "shop", ServiceAccount: "alice", Pod: "alice-1", PodUID: "uid-1", AppID: "web"}

// policy lets everybody read the stores "s" and "other".
func policy(t testing.TB) *scope.Policy {
	t.Helper()
	p, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "s"}, {Name: "other"}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// read makes a request by alice for a secret of store "s".
func read(t testing.TB, name string) resolve.Request {
	t.Helper()
	return readAs(t, alice, scope.Ref{Store: "s", Name: name})
}

func readAs(t testing.TB, id scope.Identity, ref scope.Ref) resolve.Request {
	t.Helper()
	g, err := policy(t).Authorize(id, ref)
	if err != nil {
		t.Fatal(err)
	}
	return resolve.Request{Grant: g, Origin: "api"}
}

// list makes a request by alice for the names in store "s".
func list(t testing.TB) resolve.Request {
	t.Helper()
	g, err := policy(t).AuthorizeList(alice, scope.Ref{Store: "s"})
	if err != nil {
		t.Fatal(err)
	}
	return resolve.Request{Grant: g, Origin: "api"}
}

// fixture is a resolver with one store, "s", which a Memory stands behind.
type fixture struct {
	*resolve.Resolver
	store *providertest.Memory
	t     testing.TB
}

func newFixture(t testing.TB, settings resolve.Settings) *fixture {
	t.Helper()
	return newFixtureWith(t, resolve.Options{}, settings)
}

func newFixtureWith(t testing.TB, opts resolve.Options, settings resolve.Settings) *fixture {
	t.Helper()
	f := &fixture{Resolver: resolve.New(opts), store: providertest.NewMemory(), t: t}
	t.Cleanup(f.Close)
	f.Install(resolve.Store{Name: "s", Provider: f.store.Provider(), Settings: settings})
	return f
}

// put writes a secret of one field that is called "k".
func (f *fixture) put(name, value string) { f.store.Put(name, map[string]string{"k": value}) }

// want resolves req and compares field "k", staleness and the number of Fetch calls for the secret so far.
func (f *fixture) want(req resolve.Request, value string, stale bool, fetches int) resolve.Result {
	f.t.Helper()
	res, err := f.Resolve(context.Background(), req)
	if err != nil {
		f.t.Fatalf("resolve: %v", err)
	}
	if got := string(res.Fields["k"].Reveal()); got != value || res.Stale != stale {
		f.t.Errorf("got %q, stale %v; want %q, stale %v", got, res.Stale, value, stale)
	}
	f.wantFetches(req, fetches)
	return res
}

// wantKind resolves req and compares the kind of failure and the number of Fetch calls for the secret so far.
func (f *fixture) wantKind(req resolve.Request, kind providers.Kind, fetches int) error {
	f.t.Helper()
	_, err := f.Resolve(context.Background(), req)
	wantError(f.t, err, req, kind)
	f.wantFetches(req, fetches)
	return err
}

func (f *fixture) wantFetches(req resolve.Request, fetches int) {
	f.t.Helper()
	if got := f.store.Fetches(req.Grant.Ref().Name); got != fetches {
		f.t.Errorf("the store was asked %d times, want %d", got, fetches)
	}
}

// wantError checks the kind of an error and that it says which secret of which store.
func wantError(t testing.TB, err error, req resolve.Request, kind providers.Kind) {
	t.Helper()
	e, ok := errors.AsType[*providers.Error](err)
	if !ok {
		t.Fatalf("error %v is no *providers.Error", err)
	}
	ref := req.Grant.Ref()
	if e.Kind != kind || e.Store != ref.Store || e.Name != ref.Name {
		t.Errorf("got kind %v, store %q, name %q (%v); want %v, %q, %q", e.Kind, e.Store, e.Name, err, kind, ref.Store, ref.Name)
	}
}

// advance moves the fake clock of a synctest bubble and lets everything that is due happen.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// bubble runs a test with a fake clock.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// buffer is a log that may be written and read concurrently.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// changes collects what Options.Changed was called with, as "store/name".
type changes struct {
	mu  sync.Mutex
	all []string
}

func (c *changes) add(store, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, store+"/"+name)
}

// take returns what came since the last take.
func (c *changes) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

// fetchFunc is a provider that can only fetch.
type fetchFunc func(ctx context.Context, q providers.Query) (providers.Payload, error)

func (f fetchFunc) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	return f(ctx, q)
}
func (fetchFunc) Close() error { return nil }

// notifyFunc is a provider of one empty secret whose notifications are a func.
type notifyFunc func(ctx context.Context, changed func(string)) error

func (notifyFunc) Fetch(context.Context, providers.Query) (providers.Payload, error) {
	return providers.Payload{}, nil
}
func (notifyFunc) Close() error { return nil }
func (f notifyFunc) Notify(ctx context.Context, changed func(string)) error {
	return f(ctx, changed)
}

// script is a provider whose Fetch calls are answered one by one by the test, in any order.
type script struct {
	calls   chan call
	running atomic.Int64
}

// call is one Fetch that waits for its answer.
type call struct {
	query  providers.Query
	answer chan providers.Payload
}

func newScript() *script { return &script{calls: make(chan call, 100)} }

// Fetch ignores its deadline: it returns when the test answers.
func (s *script) Fetch(_ context.Context, q providers.Query) (providers.Payload, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	c := call{query: q, answer: make(chan providers.Payload)}
	s.calls <- c
	return <-c.answer, nil
}

func (s *script) Close() error { return nil }

// one returns a payload whose field "k" has the value.
func one(value string) providers.Payload {
	return providertest.Payload(map[string]string{"k": value})
}

// outcome is what a Resolve in another goroutine returned.
type outcome struct {
	res resolve.Result
	err error
}

func (o outcome) value() string { return string(o.res.Fields["k"].Reveal()) }

// start resolves in another goroutine.
func start(ctx context.Context, r *resolve.Resolver, req resolve.Request) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		res, err := r.Resolve(ctx, req)
		c <- outcome{res, err}
	}()
	return c
}
