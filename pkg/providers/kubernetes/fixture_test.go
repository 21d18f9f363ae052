package kubernetes_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/kubernetes"
	"github.com/keywell/keywell/pkg/secret"
)

// everything is the right to read any Secret in any way.
var everything = kubetest.Rule{Resource: "secrets"}

// alice is the pod that most tests read as; aliceToken is what its token source gives.
var alice = providers.Caller{Namespace: "shop", ServiceAccount: "alice", Pod: "alice-1", PodUID: "uid-1"}

const aliceToken = "t0ken-of-alice"

// token is a TokenSource with one token for the API server.
type token string

func (t token) Token(_ context.Context, audience string) (secret.Value, time.Time, error) {
	if audience != "" {
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Invalid, "no token for audience %q", audience)
	}
	return secret.FromString(string(t)), time.Now().Add(time.Hour), nil
}

// open opens a provider for server, by a kubeconfig file with credentials that nobody may use.
func open(t testing.TB, server *kubetest.Server, log *slog.Logger) providers.Provider {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],
clusters: [{name: k, cluster: {server: %q}}], users: [{name: u, user: {token: never-to-be-sent}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := kubernetes.Driver().Open(t.Context(), providers.Config{
		Name: "kubernetes", Logger: log,
		Properties: providers.Properties{"kubeconfigpath": secret.FromString(path)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// newStore returns a provider and its server, where alice may do everything in her namespace.
func newStore(t testing.TB) (providers.Provider, *kubetest.Server) {
	t.Helper()
	server := kubetest.NewServer(t)
	server.Allow(aliceToken, kubetest.Rule{Resource: "secrets", Namespace: "shop"})
	return open(t, server, slog.New(slog.DiscardHandler)), server
}

// put stores a Secret.
func put(server *kubetest.Server, namespace, name string, fields map[string]string) string {
	data := kubetest.Object{}
	for field, value := range fields {
		data[field] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return server.Put("secrets", namespace, name, kubetest.Object{"data": data, "type": "Opaque"})
}

// query is one by alice.
func query(name string) providers.Query {
	return providers.Query{Name: name, Tokens: token(aliceToken), Caller: alice}
}

// fault returns a kubetest fault for reads of one name.
func fault(server *kubetest.Server, name string, f kubetest.Fault) {
	server.Fail(func(r kubetest.Request) *kubetest.Fault {
		if r.Verb == "get" && r.Name == name {
			return &f
		}
		return nil
	})
}

func retryAfter(seconds string) http.Header { return http.Header{"Retry-After": {seconds}} }
