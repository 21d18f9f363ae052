package csiprovider_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/csiprovider"
	"github.com/keywell/keywell/pkg/providers/csiprovider/csiprovidertest"
	"github.com/keywell/keywell/pkg/providers/csiprovider/v1alpha1"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

const canary = "c4n4ry-s3cr3t"

// serve runs a provider named "memory" in a directory until the test ends.
func serve(t *testing.T, dir string, answer csiprovidertest.Answer) (p *csiprovidertest.Provider, stop func()) {
	t.Helper()
	p, err := csiprovidertest.Serve(filepath.Join(dir, "memory.sock"), answer)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := p.Stop(); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return p, stop
}

// answers always answers with out.
func answers(out *v1alpha1.MountResponse) csiprovidertest.Answer {
	return func(context.Context, map[string]string) (*v1alpha1.MountResponse, error) { return out, nil }
}

var one = csiprovidertest.Files("1", map[string]string{"a": "1", "sub/b": "2"})

// open opens the store of a class.
func open(t testing.TB, opts csiprovider.Options, class csiprovider.Class, identity providers.Identity) (providers.Provider, error) {
	t.Helper()
	encoded, err := class.Encode()
	if err != nil {
		t.Fatal(err)
	}
	p, err := csiprovider.Driver(opts).Open(t.Context(), providers.Config{
		Name: class.Name, Identity: identity, Logger: slog.New(slog.DiscardHandler),
		Properties: providers.Properties{csiprovider.ClassProperty: secret.New(encoded)},
	})
	if err == nil {
		t.Cleanup(func() { _ = p.Close() })
	}
	return p, err
}

func mustOpen(t testing.TB, opts csiprovider.Options, class csiprovider.Class, identity providers.Identity) providers.Provider {
	t.Helper()
	p, err := open(t, opts, class, identity)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func classOf(name string) csiprovider.Class {
	return csiprovider.Class{Name: name, Provider: "memory", Parameters: map[string]string{"object": name}}
}

// classes is the stores of all classes, of which each has one secret, as one.
type classes struct {
	t    *testing.T
	opts csiprovider.Options

	mu     sync.Mutex
	stores map[string]providers.Provider
	closed bool
}

func (c *classes) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	p, err := c.store(q.Name)
	if err != nil {
		return providers.Payload{}, err
	}
	return p.Fetch(ctx, q)
}

func (c *classes) store(name string) (p providers.Provider, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.stores[name]
	if !ok {
		if p, err = open(c.t, c.opts, classOf(name), providers.AsAgent); err != nil {
			return nil, err
		}
		c.stores[name] = p
		if c.closed {
			err = p.Close()
		}
	}
	return p, err
}

func (c *classes) Close() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, p := range c.stores {
		err = errors.Join(err, p.Close())
	}
	return err
}

// fromMemory answers with what a store in memory has for the class.
func fromMemory(m *providertest.Memory) csiprovidertest.Answer {
	return func(ctx context.Context, attributes map[string]string) (*v1alpha1.MountResponse, error) {
		payload, err := m.Provider().Fetch(ctx, providers.Query{Name: attributes["object"]})
		if err != nil {
			code, ok := map[providers.Kind]codes.Code{
				providers.NotFound: codes.NotFound, providers.Denied: codes.PermissionDenied, providers.Invalid: codes.InvalidArgument,
				providers.Throttled: codes.ResourceExhausted,
			}[providers.KindOf(err)]
			if !ok {
				code = codes.Unknown
			}
			return nil, status.Error(code, err.Error())
		}
		files := map[string]string{}
		for name, value := range payload.Fields {
			files[name] = string(value.Reveal())
		}
		return &v1alpha1.MountResponse{Files: csiprovidertest.Files("", files).GetFiles()}, nil
	}
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		MultiField: true,
		Open: func(t *testing.T, _ *slog.Logger) providertest.Store {
			dir, m := t.TempDir(), providertest.NewMemory()
			serve(t, dir, fromMemory(m))
			s := providertest.Store{
				Provider: &classes{t: t, opts: csiprovider.Options{Directories: []string{dir}}, stores: map[string]providers.Provider{}},
				Put:      func(name string, fields map[string]string) string { m.Put(name, fields); return "" },
				Delete:   m.Delete,
				Hang:     func() { t.Cleanup(m.Hang()) },
				Faults:   map[providers.Kind]func(string){},
			}
			for _, kind := range []providers.Kind{providers.Denied, providers.Invalid, providers.Unavailable, providers.Throttled} {
				s.Faults[kind] = func(name string) { m.FailName(name, providers.Errorf(kind, canary)) }
			}
			return s
		},
	})
}

// podTokens are the tokens of a pod, by audience.
type podTokens map[string]string

var expires = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func (p podTokens) Token(_ context.Context, audience string) (secret.Value, time.Time, error) {
	token, ok := p[audience]
	if !ok {
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Invalid, "no token for %s", audience)
	}
	return secret.FromString(token), expires, nil
}

// TestToldAsAttested checks what a provider is told: the parameters and who the pod is, of which a class can say nothing.
func TestToldAsAttested(t *testing.T) {
	dir := t.TempDir()
	p, _ := serve(t, dir, answers(one))
	class := classOf("db")
	class.Parameters["csi.storage.k8s.io/pod.namespace"] = "kube-system"
	class.Parameters["csi.storage.k8s.io/serviceAccount.tokens"] = "forged"
	store := mustOpen(t, csiprovider.Options{Directories: []string{dir}, Audiences: []string{"vault", "sts"}}, class, providers.AsPod)
	for _, pod := range []string{"one", "two"} {
		_, err := store.Fetch(t.Context(), providers.Query{
			Name: "db", Caller: providers.Caller{Namespace: "shop", ServiceAccount: "app", Pod: pod, PodUID: "uid-" + pod},
			Tokens: podTokens{"vault": "token of " + pod, "sts": "other", "": "for the API server"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	asked := p.Asked()
	for i, pod := range []string{"one", "two"} {
		tokens := asked[i]["csi.storage.k8s.io/serviceAccount.tokens"]
		delete(asked[i], "csi.storage.k8s.io/serviceAccount.tokens")
		if diff := cmp.Diff(map[string]string{
			"object": "db", "csi.storage.k8s.io/pod.name": pod, "csi.storage.k8s.io/pod.uid": "uid-" + pod,
			"csi.storage.k8s.io/pod.namespace": "shop", "csi.storage.k8s.io/serviceAccount.name": "app",
		}, asked[i]); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		want := fmt.Sprintf(`{"sts":{"token":"other","expirationTimestamp":"2030-01-02T03:04:05Z"},"vault":{"token":"token of %s","expirationTimestamp":"2030-01-02T03:04:05Z"}}`, pod)
		if tokens != want {
			t.Errorf("tokens are %s, want %s", tokens, want)
		}
	}
}

// TestTokens: without the audiences there are no tokens, and without a pod's tokens there is no read.
func TestTokens(t *testing.T) {
	dir := t.TempDir()
	p, _ := serve(t, dir, answers(one))
	q := providers.Query{Name: "db", Caller: providers.Caller{Namespace: "shop", ServiceAccount: "app"}}
	if _, err := mustOpen(t, csiprovider.Options{Directories: []string{dir}}, classOf("db"), providers.AsPod).Fetch(t.Context(), q); err != nil {
		t.Error(err)
	}
	if got, told := p.Asked()[0]["csi.storage.k8s.io/serviceAccount.tokens"]; told {
		t.Errorf("tokens are %q", got)
	}
	store := mustOpen(t, csiprovider.Options{Directories: []string{dir}, Audiences: []string{"vault"}}, classOf("db"), providers.AsPod)
	if _, err := store.Fetch(t.Context(), q); !errors.Is(err, providers.ErrNoTokens) {
		t.Errorf("without tokens: %v", err)
	}
	q.Tokens = podTokens{"sts": "other"}
	if _, err := store.Fetch(t.Context(), q); providers.KindOf(err) != providers.Invalid {
		t.Errorf("without the token: %v", err)
	}
	if len(p.Asked()) != 1 {
		t.Errorf("the provider was asked %d times", len(p.Asked()))
	}
	forged := classOf("db")
	forged.Parameters["csi.storage.k8s.io/pod.namespace"] = "kube-system"
	standalone := mustOpen(t, csiprovider.Options{Directories: []string{dir}}, forged, providers.AsAgent)
	if _, err := standalone.Fetch(t.Context(), providers.Query{Name: "db"}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"object": "db"}, p.Asked()[1]); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func TestAnswers(t *testing.T) {
	many := map[string]string{}
	for i := range 1025 {
		many[fmt.Sprint(i)] = ""
	}
	twice := csiprovidertest.Files("1", map[string]string{"a": "1"})
	twice.Files = append(twice.Files, twice.Files[0])
	for name, tt := range map[string]struct {
		answer csiprovidertest.Answer
		kind   providers.Kind
		want   string
	}{
		"no files":       {answers(csiprovidertest.Files("1", nil)), providers.Invalid, "--driver-writes-secrets=true"},
		"too many files": {answers(csiprovidertest.Files("1", many)), providers.Invalid, "1025 files, and 1024 are allowed"},
		"a path twice":   {answers(twice), providers.Invalid, `two files with the path "a"`},
		"a code":         {answers(&v1alpha1.MountResponse{Error: &v1alpha1.Error{Code: "GCPError"}}), providers.Unavailable, "GCPError"},
		"a text as code": {answers(&v1alpha1.MountResponse{Error: &v1alpha1.Error{Code: "password is " + canary}}), providers.Unavailable, "not shown"},
		"too large":      {answers(csiprovidertest.Files("1", map[string]string{"a": strings.Repeat("x", 4<<20)})), providers.Throttled, "ResourceExhausted"},
		"an error": {func(context.Context, map[string]string) (*v1alpha1.MountResponse, error) {
			return nil, errors.New(canary)
		}, providers.Unavailable, "answers Mount with Unknown"},
		"a refusal": {func(context.Context, map[string]string) (*v1alpha1.MountResponse, error) {
			return nil, status.Error(codes.PermissionDenied, canary)
		}, providers.Denied, "PermissionDenied"},
		"another service": {nil, providers.Invalid, "Unimplemented"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.answer != nil {
				serve(t, dir, tt.answer)
			} else {
				serveNothing(t, filepath.Join(dir, "memory.sock"))
			}
			_, err := mustOpen(t, csiprovider.Options{Directories: []string{dir}}, classOf("db"), providers.AsAgent).Fetch(t.Context(), providers.Query{Name: "db"})
			if providers.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprintf("%v %+v", err, err), tt.want) || strings.Contains(fmt.Sprintf("%v %+v", err, err), canary) {
				t.Errorf("%v (%v), want %v with %q", err, providers.KindOf(err), tt.kind, tt.want)
			}
		})
	}
}

// serveNothing serves gRPC without a service.
func serveNothing(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // it ends with Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
}

func TestVersion(t *testing.T) {
	dir := t.TempDir()
	p, _ := serve(t, dir, answers(one))
	store := mustOpen(t, csiprovider.Options{Directories: []string{dir}}, classOf("db"), providers.AsAgent)
	version := func() string {
		t.Helper()
		got, err := store.Fetch(t.Context(), providers.Query{Name: "db"})
		if err != nil {
			t.Fatal(err)
		}
		return got.Version
	}
	first := version()
	if again := version(); first == "" || again != first {
		t.Errorf("versions of the same objects: %q, %q", first, again)
	}
	p.Answer(answers(csiprovidertest.Files("2", map[string]string{"a": "1"})))
	if other := version(); other == first {
		t.Errorf("another version is %q too", other)
	}
	p.Answer(answers(&v1alpha1.MountResponse{Files: one.GetFiles()}))
	if none := version(); none != "" {
		t.Errorf("without versions: %q", none)
	}
}

// TestProviderComesAndGoes has a provider start late, end, and start again, in the second of two directories.
func TestProviderComesAndGoes(t *testing.T) {
	dir := t.TempDir()
	opts := csiprovider.Options{Directories: []string{filepath.Join(dir, "none"), dir}}
	store := mustOpen(t, opts, classOf("db"), providers.AsAgent)
	fetch := func() error {
		_, err := store.Fetch(t.Context(), providers.Query{Name: "db"})
		return err
	}
	if err := fetch(); providers.KindOf(err) != providers.Unavailable || !strings.Contains(err.Error(), "no socket memory.sock") {
		t.Errorf("before the provider starts: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fetch(); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("with a file in the place of the socket: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "memory.sock")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, stop := serve(t, dir, answers(one))
		begun := time.Now()
		for err := fetch(); err != nil; err = fetch() {
			if time.Since(begun) > 10*time.Second {
				t.Fatalf("after a start: %v", err)
			}
		}
		stop()
		if err := fetch(); providers.KindOf(err) != providers.Unavailable {
			t.Errorf("without a provider: %v", err)
		}
	}
}

func TestHostileProviderNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../memory", "a/b", "memory.sock", "a\x00b", "a b", "ä", strings.Repeat("a", 31)} {
		class := classOf("db")
		class.Provider = name
		if _, err := open(t, csiprovider.Options{Directories: []string{t.TempDir()}}, class, providers.AsAgent); providers.KindOf(err) != providers.Invalid {
			t.Errorf("provider %q: %v", name, err)
		}
	}
}

func TestSelectors(t *testing.T) {
	dir := t.TempDir()
	p, _ := serve(t, dir, answers(one))
	store := mustOpen(t, csiprovider.Options{Directories: []string{dir}}, classOf("db"), providers.AsAgent)
	for name, tt := range map[string]struct {
		q    providers.Query
		kind providers.Kind
	}{
		"version":      {providers.Query{Name: "db", Version: "1"}, providers.Invalid},
		"stage":        {providers.Query{Name: "db", Stage: "1"}, providers.Invalid},
		"namespace":    {providers.Query{Name: "db", Namespace: "bank"}, providers.Invalid},
		"another name": {providers.Query{Name: "other"}, providers.NotFound},
	} {
		if _, err := store.Fetch(t.Context(), tt.q); providers.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(p.Asked()) > 0 {
		t.Error("the provider was asked")
	}
	names, err := store.(providers.Lister).List(t.Context(), providers.Query{})
	if diff := cmp.Diff([]string{"db"}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// TestClassIsNoError: what a class says may be a credential of the provider's.
func TestClassIsNoError(t *testing.T) {
	_, err := csiprovider.Driver(csiprovider.Options{}).Open(t.Context(), providers.Config{
		Properties: providers.Properties{csiprovider.ClassProperty: secret.FromString(`{"name": "` + canary)},
	})
	if providers.KindOf(err) != providers.Invalid || strings.Contains(err.Error(), canary) {
		t.Errorf("a class that can't be read: %v", err)
	}
}
