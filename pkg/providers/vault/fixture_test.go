package vault_test

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
	"github.com/keywell/keywell/pkg/secret"
)

// properties makes a driver's properties of pairs.
func properties(pairs map[string]string) providers.Properties {
	p := providers.Properties{}
	for name, value := range pairs {
		p[strings.ToLower(name)] = secret.FromString(value)
	}
	return p
}

// merged returns the pairs of all maps, of which later ones win.
func merged(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, one := range all {
		maps.Copy(m, one)
	}
	return m
}

// open opens a store as the agent.
func open(t *testing.T, pairs map[string]string) providers.Provider {
	t.Helper()
	return openAs(t, providers.AsAgent, pairs)
}

func openAs(t *testing.T, identity providers.Identity, pairs map[string]string) providers.Provider {
	t.Helper()
	return openLogging(t, identity, pairs, slog.New(slog.NewTextHandler(&logtest.Buffer{}, nil)))
}

func openLogging(t *testing.T, identity providers.Identity, pairs map[string]string, log *slog.Logger) providers.Provider {
	t.Helper()
	p, err := vault.Driver().Open(t.Context(), providers.Config{Name: "vault", Properties: properties(pairs), Identity: identity, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// kv is a KV engine behind a proxy, with what a store needs to read it.
type kv struct {
	*vaulttest.Server
	*vaulttest.Proxy
	mount  string
	policy string
	pairs  map[string]string
}

// newKV mounts an engine and makes a token that may read it.
func newKV(t *testing.T, s *vaulttest.Server, kind string) *kv {
	t.Helper()
	mount := s.Mount(t, kind)
	k := &kv{Server: s, Proxy: vaulttest.NewProxy(t, s), mount: mount, policy: s.Policy(t, mount+"/*", "read list")}
	k.pairs = map[string]string{
		"vaultAddr": k.Proxy.Addr, "caPem": k.Proxy.CA, "enginePath": mount, "vaultToken": s.NewToken(t, "", k.policy),
	}
	return k
}

// put writes a secret below Dapr's prefix and returns its version.
func (k *kv) put(t *testing.T, name string, data map[string]any) string {
	t.Helper()
	if strings.HasPrefix(k.mount, "kv-v2") {
		answer := k.Server.Put(t, k.mount+"/data/dapr/"+name, map[string]any{"data": data})
		return string(answer.Data["version"].(interface{ String() string }).String())
	}
	k.Server.Put(t, k.mount+"/dapr/"+name, data)
	return ""
}

func (k *kv) delete(t *testing.T, name string) {
	t.Helper()
	if strings.HasPrefix(k.mount, "kv-v2") {
		k.Remove(t, k.mount+"/metadata/dapr/"+name)
		return
	}
	k.Remove(t, k.mount+"/dapr/"+name)
}

// answer makes the proxy answer requests whose path has the suffix with a status.
func answer(suffix string, status int, headers ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"errors":["c4n4ry-s3cr3t ` + strconv.Itoa(status) + `"]}`))
		return true
	}
}

// hang keeps every request until its client gives up.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func reveal(fields map[string]secret.Value) map[string]string {
	all := map[string]string{}
	for name, v := range fields {
		all[name] = string(v.Reveal())
	}
	return all
}

func fetch(t *testing.T, p providers.Provider, q providers.Query) map[string]string {
	t.Helper()
	payload, err := p.Fetch(t.Context(), q)
	if err != nil {
		t.Fatalf("Fetch(%+v): %v", q, err)
	}
	return reveal(payload.Fields)
}

// wantKind fails unless q fails with kind, in an error with text.
func wantKind(t *testing.T, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	_, err := p.Fetch(t.Context(), q)
	if providers.KindOf(err) != kind || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("Fetch(%+v): %v, of kind %v; want %v with %q", q, err, providers.KindOf(err), kind, text)
	}
}

func list(t *testing.T, p providers.Provider) ([]string, error) {
	t.Helper()
	return p.(providers.Lister).List(context.WithoutCancel(t.Context()), providers.Query{})
}
