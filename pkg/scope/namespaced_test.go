package scope_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/scope"
)

// tenants are three stores called vault, two of which are objects of namespaces.
func tenants(policies ...scope.AccessRule) scope.Rules {
	return scope.Rules{
		Closed: true,
		Stores: []scope.Store{
			{Name: "vault", Source: "stores.yaml:1"},
			{Name: "vault", Namespace: "shop", Namespaced: true, Source: "Component shop/vault"},
			{Name: "vault", Namespace: "bank", Namespaced: true, Source: "Component bank/vault"},
		},
		Policies: policies,
		Scopes:   []scope.StoreScope{{Store: "vault", Denied: []string{"root"}, Source: "scopes.yaml:1"}},
		Configurations: []scope.Configuration{
			{Namespace: "shop", Name: "narrow", Source: "Configuration shop/narrow", Scopes: []scope.StoreScope{
				{Store: "vault", Default: "deny", Allowed: []string{"db"}, Source: "Configuration shop/narrow spec.secrets.scopes[0]"},
			}},
			{Namespace: "bank", Name: "elsewhere", Source: "Configuration bank/elsewhere"},
			{Namespace: "shop", Name: "broken", Faulty: true, Source: "Configuration shop/broken"},
		},
	}
}

func everyone(stores string, allow, deny []string) scope.AccessRule {
	return scope.AccessRule{Subjects: []scope.Subject{{}}, Stores: []string{stores}, Allow: allow, Deny: deny, Source: "AccessPolicy all spec.rules[0]"}
}

// TestNamespacedStores: who means which store by a name, and who gets it.
func TestNamespacedStores(t *testing.T) {
	all := []string{"*"}
	for name, tt := range map[string]struct {
		rules             scope.Rules
		namespace, config string
		store, secret     string
		key               string // of the Grant; empty: there is none
		rule              string
	}{
		"own first":        {tenants(), "shop", "", "vault", "db", "shop/vault", `Component shop/vault: store "vault" belongs to the caller's namespace`},
		"own by key":       {tenants(), "shop", "", "shop/vault", "db", "shop/vault", `Component shop/vault: store "vault" belongs to the caller's namespace`},
		"cluster's next":   {tenants(everyone("vault", all, nil)), "web", "", "vault", "db", "vault", `AccessPolicy all spec.rules[0]: allow "*"`},
		"another's by key": {tenants(), "shop", "", "bank/vault", "db", "", `Component bank/vault: store "vault" serves namespace "bank" only, and no AccessPolicy opens it to the caller's`},
		// The rule may have been written with the cluster's store in mind.
		"a rule without a namespace opens no other's store": {tenants(everyone("vault", all, nil)), "web", "", "bank/vault", "db", "",
			`Component bank/vault: store "vault" serves namespace "bank" only, and no AccessPolicy opens it to the caller's`},
		"not even *":              {tenants(everyone("*", all, nil)), "web", "", "bank/vault", "db", "", `Component bank/vault: store "vault" serves namespace "bank" only, and no AccessPolicy opens it to the caller's`},
		"a rule with a namespace": {tenants(everyone("bank/*", all, nil)), "web", "", "bank/vault", "db", "bank/vault", `AccessPolicy all spec.rules[0]: allow "*"`},
		"it is for that one only": {tenants(everyone("bank/*", all, nil)), "web", "", "vault", "db", "", `no AccessPolicy grants store "vault"`},
		"a deny is for each":      {tenants(everyone("vault", nil, []string{"db"})), "shop", "", "vault", "db", "", `AccessPolicy all spec.rules[0]: deny "db"`},
		"scopes are for each":     {tenants(), "shop", "", "vault", "root", "", `scopes.yaml:1: deniedSecrets of store "vault" lists "root"`},

		"Configuration allows":         {tenants(), "shop", "narrow", "vault", "db", "shop/vault", `Component shop/vault: store "vault" belongs to the caller's namespace`},
		"Configuration denies":         {tenants(), "shop", "narrow", "vault", "api-key", "", `Configuration shop/narrow spec.secrets.scopes[0]: allowedSecrets of store "vault" does not list "api-key"`},
		"it denies by key too":         {tenants(), "shop", "narrow", "shop/vault", "api-key", "", `Configuration shop/narrow spec.secrets.scopes[0]: allowedSecrets of store "vault" does not list "api-key"`},
		"Configuration does not exist": {tenants(), "shop", "wide", "vault", "db", "", `the pod is annotated dapr.io/config: "wide", and namespace "shop" has no such Configuration`},
		"Configuration of another":     {tenants(), "shop", "elsewhere", "vault", "db", "", `the pod is annotated dapr.io/config: "elsewhere", and namespace "shop" has no such Configuration`},
		"Configuration is faulty":      {tenants(), "shop", "broken", "vault", "db", "", `Configuration shop/broken: faulty, and the pod is annotated dapr.io/config: "broken"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy(t, tt.rules)
			id := scope.Identity{Namespace: tt.namespace, ServiceAccount: "default", Configuration: tt.config}
			ref := scope.Ref{Store: tt.store, Name: tt.secret}
			if diff := cmp.Diff(tt.rule, p.Explain(id, ref).Rule()); diff != "" {
				t.Errorf("rule (-want +got):\n%s", diff)
			}
			grant, err := p.Authorize(id, ref)
			if (err == nil) != (tt.key != "") || grant.Ref().Store != tt.key {
				t.Fatalf("granted store %q, %v; want %q", grant.Ref().Store, err, tt.key)
			}
			if err != nil {
				if told := strings.HasSuffix(err.Error(), tt.rule); told != (tt.config != "" && tt.config != "narrow") {
					t.Errorf("the caller is told %q", err)
				}
				return
			}
			if again := p.Key(id, tt.key); again != tt.key {
				t.Errorf("the key %q is %q when it is asked for again", tt.key, again)
			}
			list, err := p.AuthorizeList(id, ref)
			if err != nil || list.Ref().Store != tt.key {
				t.Errorf("listing: store %q, %v", list.Ref().Store, err)
			}
		})
	}
}

// TestNoListingWithoutConfiguration: not even names are asked for.
func TestNoListingWithoutConfiguration(t *testing.T) {
	_, err := policy(t, tenants()).AuthorizeList(scope.Identity{Namespace: "shop", Configuration: "wide"}, scope.Ref{Store: "vault"})
	if err == nil {
		t.Error("a listing is allowed")
	}
}

// TestNamespacedReferences: a component of a namespace means that namespace's store too.
func TestNamespacedReferences(t *testing.T) {
	p := policy(t, tenants())
	from := scope.Store{Name: "db", Namespace: "shop", Namespaced: true}
	if g, err := p.AuthorizeReference(from, scope.Ref{Store: "vault", Name: "x"}); err != nil || g.Ref().Store != "shop/vault" {
		t.Errorf("its own: %q, %v", g.Ref().Store, err)
	}
	if _, err := p.AuthorizeReference(from, scope.Ref{Store: "bank/vault", Name: "x"}); err == nil {
		t.Error("it may refer to another namespace's store")
	}
	if _, err := p.AuthorizeReference(scope.Store{Name: "db", Namespace: "web", Namespaced: true}, scope.Ref{Store: "vault", Name: "x"}); err == nil {
		t.Error("it may refer to the cluster's store, which is open to nobody")
	}
}

func TestTwoObjectsOfOneKey(t *testing.T) {
	rules := tenants()
	rules.Stores = append(rules.Stores, rules.Stores[1])
	if _, err := scope.NewPolicy(rules); err == nil {
		t.Error("no error")
	}
}
