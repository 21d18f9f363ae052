package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// TestNamespacedStores: three stores are called vault, and each caller gets and sees its own.
func TestNamespacedStores(t *testing.T) {
	f := newFixture(t)
	f.rules.Closed = true
	for namespace, key := range map[string]string{"": "vault", "shop": "shop/vault", "bank": "bank/vault"} {
		m := providertest.NewMemory()
		m.Put("db", map[string]string{"of": key})
		f.stores.list = append(f.stores.list, api.Store{Key: key, Name: "vault", Type: "secretstores.memory", Open: true})
		f.rules.Stores = append(f.rules.Stores, scope.Store{Name: "vault", Namespace: namespace, Namespaced: namespace != ""})
		f.resolver.Install(resolve.Store{Name: key, Provider: m.Provider()})
	}
	f.rules.Policies = []scope.AccessRule{
		{Subjects: []scope.Subject{{Namespace: "web"}}, Stores: []string{"vault", "shop/vault"}, Allow: []string{"db"}},
	}
	f.setPolicy()
	var caller scope.Identity
	f.options.Attest = func(context.Context, api.Evidence) (scope.Identity, error) { return caller, nil }
	h := api.New(f.options).Handler()

	for _, tt := range []struct{ namespace, config, store, of string }{
		{"shop", "", "vault", "shop/vault"},
		{"bank", "", "vault", "bank/vault"},
		{"web", "", "vault", "vault"},
		{"web", "", "shop%2Fvault", "shop/vault"},
		{"web", "", "bank%2Fvault", ""},
		{"shop", "", "bank%2Fvault", ""},
		{"shop", "missing", "vault", ""},
	} {
		caller = scope.Identity{Namespace: tt.namespace, ServiceAccount: "default", Configuration: tt.config}
		w := do(h, http.MethodGet, "/v1.0/secrets/"+tt.store+"/db")
		want := `{"of":"` + tt.of + `"}`
		if got := strings.TrimSpace(w.Body.String()); (w.Code == http.StatusOK) != (tt.of != "") || tt.of != "" && got != want {
			t.Errorf("%+v: %d %s", tt, w.Code, got)
		}
		bulk := do(h, http.MethodGet, "/v1.0/secrets/"+tt.store+"/bulk").Body.String()
		if strings.Contains(bulk, want) != (tt.of != "") {
			t.Errorf("%+v: bulk %s", tt, bulk)
		}
	}
	caller = scope.Identity{Namespace: "shop", ServiceAccount: "default"}
	described := do(h, http.MethodGet, "/v1.0/metadata").Body.String()
	if n := strings.Count(described, "vault"); n != 1 {
		t.Errorf("a caller of shop sees %d stores: %s", n, described)
	}
}
