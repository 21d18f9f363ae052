package api_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

const appID = "checkout"

// fixture is the API in front of a real resolver, with stores in memory.
type fixture struct {
	t        testing.TB
	options  api.Options
	resolver *resolve.Resolver
	watches  *watch.Hub
	policy   *scope.Live
	rules    scope.Rules
	stores   *storeList
	audit    *auditor
	registry *prometheus.Registry
	logs     *syncBuffer
}

// storeList is the configured stores.
type storeList struct {
	mu   sync.Mutex
	list []api.Store
}

func (s *storeList) Stores() []api.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

func (s *storeList) Store(key string) (api.Store, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.list {
		if st.Key == key {
			return st, true
		}
	}
	return api.Store{}, false
}

// auditor remembers what it was told.
type auditor struct {
	mu     sync.Mutex
	denied []string
	bulks  []int
}

func (a *auditor) AuditDenied(_ context.Context, origin string, id scope.Identity, ref scope.Ref, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.denied = append(a.denied, strings.Join([]string{origin, id.AppID, ref.Store, ref.Name}, " "))
}

func (a *auditor) AuditBulk(_ context.Context, _ string, list scope.Grant, secrets int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !list.Lists() {
		secrets = -1
	}
	a.bulks = append(a.bulks, secrets)
}

// syncBuffer collects log output.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, policy: &scope.Live{}, stores: &storeList{}, audit: &auditor{}, registry: prometheus.NewRegistry(), logs: &syncBuffer{}}
	f.resolver = resolve.New(resolve.Options{Changed: func(store, name string) { f.watches.Changed(store, name) }})
	f.watches = watch.New(watch.Options{Policy: f.policy, Resolver: f.resolver, MaxPerCaller: 8, Registerer: f.registry})
	t.Cleanup(f.resolver.Close)
	f.options = api.Options{
		AppID: appID, Version: "1.18.1", Policy: f.policy, Resolver: f.resolver, Audit: f.audit, Stores: f.stores, Watches: f.watches,
		Registerer: f.registry, Logger: slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	return f
}

// withStore adds an open store.
func (f *fixture) withStore(name string, m *providertest.Memory, settings ...resolve.Settings) *fixture {
	return f.with(api.Store{
		Name: name, Type: "secretstores.memory", Version: "v1", Open: true,
		Selectors: providers.Selectors{Version: true, Stage: true, Namespace: true},
	}, m.Provider(), settings...)
}

// with adds a store, and installs p for it unless p is nil.
func (f *fixture) with(s api.Store, p providers.Provider, settings ...resolve.Settings) *fixture {
	f.t.Helper()
	s.Key = s.Name
	f.stores.mu.Lock()
	f.stores.list = append(f.stores.list, s)
	f.stores.mu.Unlock()
	f.rules.Stores = append(f.rules.Stores, scope.Store{Name: s.Name})
	f.setPolicy()
	if p != nil {
		installed := resolve.Store{Name: s.Name, Provider: p}
		if len(settings) > 0 {
			installed.Settings = settings[0]
		}
		f.resolver.Install(installed)
	}
	return f
}

// setPolicy puts f.rules in force.
func (f *fixture) setPolicy() {
	f.t.Helper()
	p, err := scope.NewPolicy(f.rules)
	if err != nil {
		f.t.Fatal(err)
	}
	f.policy.Set(p)
	f.watches.PolicyChanged()
}

// do sends a request to the HTTP skin, without a network.
func do(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// running is a served API.
type running struct {
	http, grpc string // addresses
	stopped    <-chan error
	stop       func()
}

// run serves the API on loopback until the test ends.
func (f *fixture) run() running {
	f.t.Helper()
	l, err := api.Listen(f.t.Context(), api.Addresses{HTTP: []string{"127.0.0.1:0"}, GRPC: []string{"127.0.0.1:0"}})
	if err != nil {
		f.t.Fatal(err)
	}
	return f.serve(l)
}

func (f *fixture) serve(l api.Listeners) running {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- api.New(f.options).Run(ctx, l) }()
	r := running{http: l.HTTP[0].Addr().String(), grpc: l.GRPC[0].Addr().String(), stopped: stopped}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
	f.t.Cleanup(r.stop)
	return r
}

// client returns a gRPC client of the API.
func (r running) client(t testing.TB) (runtimev1pb.DaprClient, *grpc.ClientConn) {
	t.Helper()
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return runtimev1pb.NewDaprClient(conn), conn
}

var changing = regexp.MustCompile(`(?m)^Date: .*\r\n|[0-9a-f]{32}"`)

// raw sends one request over a connection of its own and returns the answer byte by byte, except for what changes from
// run to run: the date is left out and an entity tag is replaced by *".
func (r running) raw(t testing.TB, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", r.http)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return changing.ReplaceAllStringFunc(string(answer), func(s string) string {
		if strings.HasPrefix(s, "Date") {
			return ""
		}
		return `*"`
	})
}

// fakeResolver answers with functions.
type fakeResolver struct {
	resolve func(ctx context.Context, req resolve.Request) (resolve.Result, error)
	list    func(ctx context.Context, req resolve.Request) (resolve.Listing, error)
}

func (f fakeResolver) Resolve(ctx context.Context, req resolve.Request) (resolve.Result, error) {
	return f.resolve(ctx, req)
}

func (f fakeResolver) List(ctx context.Context, req resolve.Request) (resolve.Listing, error) {
	return f.list(ctx, req)
}

func (fakeResolver) Epoch(string) uint64 { return 1 }

// countStreams returns how many subscriptions there are.
func (f *fixture) countStreams(t testing.TB) int {
	t.Helper()
	synctest.Wait()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "keywell_watch_subscriptions" {
			return int(family.GetMetric()[0].GetGauge().GetValue())
		}
	}
	t.Error("subscriptions are not counted")
	return -1
}
