package daprplugin_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/daprplugin"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

// plugin is a pluggable secret store before a store in memory. As strict as may be: a component that was not initialised
// is refused.
type plugin struct {
	componentsv1pb.UnimplementedSecretStoreServer
	memory *providertest.MemoryProvider

	mu         sync.Mutex
	properties map[string]map[string]string // component → what Init brought
}

// serve runs the plugin at a socket until stop is called, or the test ends.
func serve(t *testing.T, path string, m *providertest.Memory) (p *plugin, stop func()) {
	t.Helper()
	p = &plugin{memory: m.Provider(), properties: map[string]map[string]string{}}
	server := grpc.NewServer()
	componentsv1pb.RegisterSecretStoreServer(server, p)
	return p, serveAt(t, path, server)
}

func serveAt(t *testing.T, path string, server *grpc.Server) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	stop = sync.OnceFunc(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func component(ctx context.Context) string {
	if names := metadata.ValueFromIncomingContext(ctx, "x-component-instance"); len(names) == 1 {
		return names[0]
	}
	return ""
}

func (p *plugin) Init(ctx context.Context, in *componentsv1pb.SecretStoreInitRequest) (*componentsv1pb.SecretStoreInitResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.properties[component(ctx)] = in.GetMetadata().GetProperties()
	return &componentsv1pb.SecretStoreInitResponse{}, nil
}

func (p *plugin) Features(context.Context, *componentsv1pb.FeaturesRequest) (*componentsv1pb.FeaturesResponse, error) {
	return &componentsv1pb.FeaturesResponse{Features: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}}, nil
}

func (p *plugin) Get(ctx context.Context, in *componentsv1pb.GetSecretRequest) (*componentsv1pb.GetSecretResponse, error) {
	if err := p.initialised(ctx); err != nil {
		return nil, err
	}
	payload, err := p.memory.Fetch(ctx, providers.Query{Name: in.GetKey(), Metadata: in.GetMetadata()})
	if err != nil {
		return nil, coded(err)
	}
	return &componentsv1pb.GetSecretResponse{Data: plain(payload.Fields)}, nil
}

func (p *plugin) BulkGet(ctx context.Context, _ *componentsv1pb.BulkGetSecretRequest) (*componentsv1pb.BulkGetSecretResponse, error) {
	if err := p.initialised(ctx); err != nil {
		return nil, err
	}
	names, err := p.memory.List(ctx, providers.Query{})
	if err != nil {
		return nil, coded(err)
	}
	out := &componentsv1pb.BulkGetSecretResponse{Data: map[string]*componentsv1pb.SecretResponse{}}
	for _, name := range names {
		payload, err := p.memory.Fetch(ctx, providers.Query{Name: name})
		if err != nil {
			return nil, coded(err)
		}
		out.Data[name] = &componentsv1pb.SecretResponse{Secrets: plain(payload.Fields)}
	}
	return out, nil
}

func (p *plugin) initialised(ctx context.Context) error {
	if _, ok := p.brought(component(ctx)); !ok {
		return status.Error(codes.FailedPrecondition, "not initialised")
	}
	return nil
}

// brought returns what Init brought for a component.
func (p *plugin) brought(component string) (map[string]string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	properties, ok := p.properties[component]
	return properties, ok
}

// coded returns err as a plugin that knows gRPC's codes does.
func coded(err error) error {
	code, ok := map[providers.Kind]codes.Code{
		providers.NotFound: codes.NotFound, providers.Denied: codes.PermissionDenied, providers.Invalid: codes.InvalidArgument,
		providers.Throttled: codes.ResourceExhausted, providers.Unavailable: codes.Unavailable,
	}[providers.KindOf(err)]
	if !ok {
		code = codes.Unknown
	}
	return status.Error(code, err.Error())
}

func plain(fields map[string]secret.Value) map[string]string {
	data := make(map[string]string, len(fields))
	for name, value := range fields {
		data[name] = string(value.Reveal())
	}
	return data
}

// open opens the store of a component with the driver that the directory has for a type.
func open(t *testing.T, d *daprplugin.Directory, typ, name string, properties map[string]string) (providers.Provider, error) {
	t.Helper()
	driver, ok := d.Driver(typ)
	if !ok {
		t.Fatalf("no driver for %s", typ)
	}
	cfg := providers.Config{Name: name, Properties: providers.Properties{}, Written: map[string]string{"vaultaddr": "vaultAddr"}, Logger: slog.New(slog.DiscardHandler)}
	for key, value := range properties {
		cfg.Properties[key] = secret.FromString(value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p, err := driver.Open(ctx, cfg)
	if err == nil {
		t.Cleanup(func() { _ = p.Close() })
		if !driver.MultipleKeyValues(cfg) {
			t.Error("the plugin's feature is lost")
		}
	}
	return p, err
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		MultiField: true, Lists: true,
		Open: func(t *testing.T, _ *slog.Logger) providertest.Store {
			dir, m := t.TempDir(), providertest.NewMemory()
			serve(t, filepath.Join(dir, "memory.sock"), m)
			p, err := open(t, daprplugin.New(dir), "secretstores.memory", "test", nil)
			if err != nil {
				t.Fatal(err)
			}
			s := providertest.Store{
				Provider: p,
				Put:      func(name string, fields map[string]string) string { m.Put(name, fields); return "" },
				Delete:   m.Delete,
				Hang:     func() { t.Cleanup(m.Hang()) },
				Faults:   map[providers.Kind]func(string){},
			}
			for _, kind := range []providers.Kind{providers.Denied, providers.Invalid, providers.Unavailable, providers.Throttled} {
				s.Faults[kind] = func(name string) { m.FailName(name, providers.Errorf(kind, "c4n4ry-s3cr3t")) }
			}
			return s
		},
	})
}

func TestDiscovery(t *testing.T) {
	dir, m := t.TempDir(), providertest.NewMemory()
	if err := os.WriteFile(filepath.Join(dir, "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := daprplugin.New(dir)
	if _, ok := d.Driver("secretstores.mine"); ok {
		t.Error("a driver for a socket that is not there")
	}
	serve(t, filepath.Join(dir, "Mine.sock"), m)
	serve(t, filepath.Join(dir, "other"), m)
	for typ, want := range map[string]bool{
		"secretstores.mine": true, "secretstores.other": true, "secretstores.file": false, "secretstores.": false, "mine": false, "secretstores.../mine": false,
	} {
		if driver, ok := d.Driver(typ); ok != want || ok && (driver.Type != typ || !driver.AnyProperties) {
			t.Errorf("%s: found %t", typ, ok)
		}
	}
	var types []string
	for _, driver := range d.Drivers() {
		types = append(types, driver.Type)
	}
	if !slices.Equal(types, []string{"secretstores.mine", "secretstores.other"}) {
		t.Errorf("types: %q", types)
	}
}

// TestComponents has one plugin serve two components, each with its own settings, whose names keep their case.
func TestComponents(t *testing.T) {
	dir, m := t.TempDir(), providertest.NewMemory()
	p, _ := serve(t, filepath.Join(dir, "mine.sock"), m)
	d := daprplugin.New(dir)
	for name, address := range map[string]string{"a": "http://a", "b": "http://b"} {
		if _, err := open(t, d, "secretstores.mine", name, map[string]string{"vaultaddr": address}); err != nil {
			t.Fatal(err)
		}
		if got, _ := p.brought(name); len(got) != 1 || got["vaultAddr"] != address {
			t.Errorf("component %s was initialised with %v", name, got)
		}
	}
}

// TestRestart has a plugin come back, which has forgotten everything by then.
func TestRestart(t *testing.T) {
	dir, m := t.TempDir(), providertest.NewMemory()
	m.Put("db", map[string]string{"user": "u"})
	path := filepath.Join(dir, "mine.sock")
	_, stop := serve(t, path, m)
	d := daprplugin.New(dir)
	p, err := open(t, d, "secretstores.mine", "a", map[string]string{"vaultaddr": "x"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); err != nil {
			t.Fatalf("Fetch: %v", err)
		}
		stop()
		if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); providers.KindOf(err) != providers.Unavailable {
			t.Errorf("without a plugin: %v", err)
		}
		if _, ok := d.Driver("secretstores.mine"); !ok {
			t.Error("the type is forgotten while the plugin is away")
		}
		var again *plugin
		again, stop = serve(t, path, m)
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); err != nil {
					t.Errorf("Fetch after a restart: %v", err)
				}
			})
		}
		callers.Wait()
		if got, _ := again.brought("a"); got["vaultAddr"] != "x" {
			t.Errorf("initialised again with %v", got)
		}
	}
}

// kept is a socket that outlives the process which serves it, as a service manager's does.
type kept struct{ *net.UnixListener }

func (k kept) Close() error { return k.SetDeadline(time.Unix(1, 0)) }

// TestSocketActivation has a plugin start again behind the same socket: only the connection shows that.
func TestSocketActivation(t *testing.T) {
	dir, m := t.TempDir(), providertest.NewMemory()
	m.Put("db", map[string]string{"user": "u"})
	l, err := net.Listen("unix", filepath.Join(dir, "mine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := kept{l.(*net.UnixListener)}
	start := func() (*plugin, func()) {
		if err := socket.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		p := &plugin{memory: m.Provider(), properties: map[string]map[string]string{}}
		server := grpc.NewServer()
		componentsv1pb.RegisterSecretStoreServer(server, p)
		done := make(chan error, 1)
		go func() { done <- server.Serve(socket) }()
		return p, func() { server.Stop(); <-done }
	}
	_, stop := start()
	p, err := open(t, daprplugin.New(dir), "secretstores.mine", "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	again, stop := start()
	defer stop()
	if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("the first read that notices: %v", err)
	}
	if _, err := p.Fetch(t.Context(), providers.Query{Name: "db"}); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if _, ok := again.brought("a"); !ok {
		t.Error("not initialised again")
	}
}

// TestNotAStore has another kind of plugin at the socket, and a file that is none at all.
func TestNotAStore(t *testing.T) {
	dir := t.TempDir()
	serveAt(t, filepath.Join(dir, "state.sock"), grpc.NewServer())
	if _, err := open(t, daprplugin.New(dir), "secretstores.state", "a", nil); providers.KindOf(err) != providers.Invalid {
		t.Errorf("another kind of plugin: %v", err)
	}
	path := filepath.Join(dir, "mine.sock")
	_, stop := serve(t, path, providertest.NewMemory())
	d := daprplugin.New(dir)
	d.Driver("secretstores.mine")
	stop()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, d, "secretstores.mine", "a", nil); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("a file: %v", err)
	}
}

// TestUnreachable has sockets that nobody serves and that the agent may not write to, who in Kubernetes is a root without
// the right to pass over modes.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "left.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, filepath.Join(dir, "theirs.sock"), providertest.NewMemory())
	if err := os.Chmod(filepath.Join(dir, "theirs.sock"), 0o500); err != nil {
		t.Fatal(err)
	}
	respectModes(t)
	for typ, want := range map[string]string{
		"secretstores.left":   "connection refused",
		"secretstores.theirs": "permission denied: the agent must be able to write to the socket",
	} {
		_, err := open(t, daprplugin.New(dir), typ, "a", nil)
		if providers.KindOf(err) != providers.Unavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// respectModes takes the right to pass over files' modes from the test's thread, for good.
func respectModes(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and no unlocking: the thread ends with the test
	header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	dir, m := t.TempDir(), providertest.NewMemory()
	changed := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- daprplugin.New(dir).Run(ctx, func() { changed <- struct{}{} }) }()
	await := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s goes unnoticed", what)
		}
	}
	_, stop := serve(t, filepath.Join(dir, "mine.sock"), m)
	await("a new socket")
	stop()
	await("the end of a socket")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
