package scope_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/scope"
)

func policy(t *testing.T, rules scope.Rules) *scope.Policy {
	t.Helper()
	p, err := scope.NewPolicy(rules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDaprDecisionTable holds the six cases of Dapr's scoping page, then the precedence that its source gives.
func TestDaprDecisionTable(t *testing.T) {
	cases := []struct {
		name  string
		scope *scope.StoreScope // nil: no entry for the store
		want  map[string]bool   // secret → allowed
	}{
		{"documented 1: only default access deny", &scope.StoreScope{Default: "deny"}, map[string]bool{"s1": false, "s2": false}},
		{"documented 2: default deny with allowed", &scope.StoreScope{Default: "deny", Allowed: []string{"s1"}}, map[string]bool{"s1": true, "s2": false}},
		{"documented 3: default allow with denied", &scope.StoreScope{Default: "allow", Denied: []string{"s1"}}, map[string]bool{"s1": false, "s2": true}},
		{"documented 4: default allow with allowed", &scope.StoreScope{Default: "allow", Allowed: []string{"s1"}}, map[string]bool{"s1": true, "s2": false}},
		{"documented 5: default deny with denied", &scope.StoreScope{Default: "deny", Denied: []string{"s1"}}, map[string]bool{"s1": false, "s2": false}},
		{"documented 6: default deny, allowed and denied", &scope.StoreScope{Default: "deny", Allowed: []string{"s1"}, Denied: []string{"s2"}}, map[string]bool{"s1": true, "s2": false, "s3": false}},
		{"no entry allows", nil, map[string]bool{"s1": true}},
		{"empty entry allows", &scope.StoreScope{}, map[string]bool{"s1": true}},
		{"allowed wins over denied", &scope.StoreScope{Allowed: []string{"s1"}, Denied: []string{"s1"}}, map[string]bool{"s1": true, "s2": false}},
		{"default access in any case", &scope.StoreScope{Default: "DeNy"}, map[string]bool{"s1": false}},
		{"names are compared exactly", &scope.StoreScope{Default: "deny", Allowed: []string{"s1", "s*"}}, map[string]bool{"S1": false, "s2": false, "s*": true, "s1": true, "": false}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rules := scope.Rules{Stores: []scope.Store{{Name: "store"}}}
			if c.scope != nil {
				c.scope.Store = "store"
				rules.Scopes = []scope.StoreScope{*c.scope}
			}
			p := policy(t, rules)
			for name, want := range c.want {
				ref := scope.Ref{Store: "store", Name: name}
				g, err := p.Authorize(scope.Identity{AppID: "app"}, ref)
				if got := err == nil; got != want {
					t.Errorf("%q: allowed = %v, want %v (%s)", name, got, want, p.Explain(scope.Identity{AppID: "app"}, ref).Rule())
				}
				if g.Reads() != want {
					t.Errorf("%q: grant reads = %v, want %v", name, g.Reads(), want)
				}
			}
		})
	}
}

func TestNewPolicyRefuses(t *testing.T) {
	cases := map[string]struct {
		rules scope.Rules
		want  string
	}{
		"a repeated scope": {
			scope.Rules{Scopes: []scope.StoreScope{{Store: "a", Source: "c.yaml:5"}, {Store: "a", Source: "c.yaml:9"}}},
			"c.yaml:9: a storeName is repeated in secrets configuration, first at c.yaml:5",
		},
		"an unknown default": {
			scope.Rules{Scopes: []scope.StoreScope{{Store: "a", Default: "maybe", Source: "c.yaml:5"}}},
			`c.yaml:5: defaultAccess "maybe" of store a is neither allow nor deny`,
		},
		"two stores of one name": {
			scope.Rules{Stores: []scope.Store{{Name: "a", Source: "a.yaml:1"}, {Name: "a", Source: "b.yaml:1"}}},
			`b.yaml:1: store "a" is already defined at a.yaml:1`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := scope.NewPolicy(c.rules)
			if err == nil || err.Error() != c.want {
				t.Errorf("error = %v, want %s", err, c.want)
			}
		})
	}
}

// shop is a cluster with a shared store, one bound to a namespace, and one limited to an app.
func shop(closed bool) scope.Rules {
	return scope.Rules{
		Closed: closed,
		Stores: []scope.Store{
			{Name: "shared", Source: "stores.yaml:1"},
			{Name: "payments", Namespace: "payments", Source: "stores.yaml:10"},
			{Name: "limited", AppIDs: []string{"web"}, Source: "stores.yaml:20"},
			{Name: "untouched", Source: "stores.yaml:30"},
			{Name: "kubernetes", PodAuthorized: true, Source: "built in"},
		},
		Policies: []scope.AccessRule{
			{
				Subjects: []scope.Subject{{Namespace: "shop", ServiceAccount: "web-*"}},
				Stores:   []string{"shared", "limited"}, Allow: []string{"shop/*", "common"}, Deny: []string{"shop/root*"},
				Source: "policy.yaml:7",
			},
			{
				Subjects: []scope.Subject{{}},
				Stores:   []string{"shared"}, Deny: []string{"*/break-glass"}, Source: "policy.yaml:15",
			},
			{
				Subjects: []scope.Subject{{Namespace: "audit"}}, Stores: []string{"*s"},
				Allow: []string{"*"}, Namespaces: []string{"shop", "pay*"}, Source: "policy.yaml:20",
			},
		},
	}
}

func TestAccessPolicy(t *testing.T) {
	web := scope.Identity{Namespace: "shop", ServiceAccount: "web-eu", AppID: "web"}
	pay := scope.Identity{Namespace: "payments", ServiceAccount: "default", AppID: "pay"}
	auditor := scope.Identity{Namespace: "audit", ServiceAccount: "default", AppID: "auditor"}
	cases := []struct {
		name   string
		closed bool
		id     scope.Identity
		ref    scope.Ref
		rule   string // the deciding rule; its first word tells the outcome
		err    string // "", "denied" or "hidden"
	}{
		{"granted by pattern", true, web, scope.Ref{Store: "shared", Name: "shop/db"}, `policy.yaml:7: allow "shop/*"`, ""},
		{"a deny of the same rule wins", true, web, scope.Ref{Store: "shared", Name: "shop/root-ca"}, `policy.yaml:7: deny "shop/root*"`, "denied"},
		{"a deny of a later rule wins", true, web, scope.Ref{Store: "shared", Name: "shop/break-glass"}, `policy.yaml:15: deny "*/break-glass"`, "denied"},
		{"a name no pattern allows", true, web, scope.Ref{Store: "shared", Name: "other"}, `no AccessPolicy rule of store "shared" allows "other" to this caller`, "denied"},
		{"a subject no rule selects", true, pay, scope.Ref{Store: "shared", Name: "shop/db"}, `no AccessPolicy rule of store "shared" allows "shop/db" to this caller`, "denied"},
		{"service account glob does not match", true, scope.Identity{Namespace: "shop", ServiceAccount: "batch"}, scope.Ref{Store: "shared", Name: "shop/db"}, `no AccessPolicy rule of store "shared" allows "shop/db" to this caller`, "denied"},
		{"closed: a shared store without a rule", true, web, scope.Ref{Store: "untouched", Name: "x"}, `no AccessPolicy grants store "untouched"`, "denied"},
		{"open: a store that no rule names", false, web, scope.Ref{Store: "untouched", Name: "x"}, `stores.yaml:30: no AccessPolicy names store "untouched", which is open by default`, ""},
		{"open: a store that a rule names is closed to others", false, pay, scope.Ref{Store: "shared", Name: "x"}, `no AccessPolicy rule of store "shared" allows "x" to this caller`, "denied"},
		{"a namespaced store serves its namespace", true, pay, scope.Ref{Store: "payments", Name: "x"}, `stores.yaml:10: store "payments" belongs to the caller's namespace`, ""},
		{"own namespace named explicitly", true, pay, scope.Ref{Store: "payments", Name: "x", Namespace: "payments"}, `stores.yaml:10: store "payments" belongs to the caller's namespace`, ""},
		{"metadata.namespace does not walk around it", true, pay, scope.Ref{Store: "payments", Name: "x", Namespace: "shop"}, `no AccessPolicy rule of store "payments" allows "x" to this caller`, "denied"},
		{"a namespaced store is hidden from others", true, web, scope.Ref{Store: "payments", Name: "x"}, `stores.yaml:10: store "payments" serves namespace "payments" only, and no AccessPolicy opens it to the caller's`, "hidden"},
		{"unless a rule opens it", true, auditor, scope.Ref{Store: "payments", Name: "x"}, `policy.yaml:20: allow "*"`, ""},
		{"in the namespaces that the rule names", true, auditor, scope.Ref{Store: "payments", Name: "x", Namespace: "payments"}, `policy.yaml:20: allow "*"`, ""},
		{"and no others", true, auditor, scope.Ref{Store: "payments", Name: "x", Namespace: "kube-system"}, `no AccessPolicy rule of store "payments" allows "x" to this caller`, "denied"},
		{"app ids hide a store", true, scope.Identity{Namespace: "shop", ServiceAccount: "web-eu", AppID: "batch"}, scope.Ref{Store: "limited", Name: "common"}, `stores.yaml:20: the scopes of store "limited" do not list app id "batch"`, "hidden"},
		{"app ids show a store", true, web, scope.Ref{Store: "limited", Name: "common"}, `policy.yaml:7: allow "common"`, ""},
		{"a store that authorises pods serves the own namespace", true, pay, scope.Ref{Store: "kubernetes", Name: "x"}, `built in: store "kubernetes" reads the caller's namespace with the pod's own token`, ""},
		{"and no other", true, pay, scope.Ref{Store: "kubernetes", Name: "x", Namespace: "shop"}, `no AccessPolicy rule of store "kubernetes" allows "x" to this caller`, "denied"},
		{"and no caller without a namespace", true, scope.Identity{AppID: "x"}, scope.Ref{Store: "kubernetes", Name: "x"}, `no AccessPolicy rule of store "kubernetes" allows "x" to this caller`, "denied"},
		{"an unknown store", true, web, scope.Ref{Store: "nope", Name: "x"}, `no component defines a store "nope"`, "hidden"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := policy(t, shop(c.closed))
			g, err := p.Authorize(c.id, c.ref)
			denied, isDenied := errors.AsType[*scope.DeniedError](err)
			switch {
			case c.err == "" && (err != nil || g.Ref() != c.ref || g.Identity() != c.id || !g.Reads()),
				c.err == "denied" && (!isDenied || denied.Rule != c.rule),
				c.err == "hidden" && !errors.Is(err, scope.ErrStoreNotFound),
				c.err != "" && g.Reads():
				t.Errorf("Authorize = %+v, %v; want outcome %q", g, err, c.err)
			}
			d := p.Explain(c.id, c.ref)
			if d.Rule() != c.rule || d.Allowed != (c.err == "") {
				t.Errorf("Explain = %v %q, want %q", d.Allowed, d.Rule(), c.rule)
			}
		})
	}
}

func TestAuthorizeList(t *testing.T) {
	p := policy(t, shop(true))
	web := scope.Identity{Namespace: "shop", ServiceAccount: "web-eu", AppID: "web"}
	g, err := p.AuthorizeList(web, scope.Ref{Store: "shared", Name: "ignored"})
	if err != nil || !g.Lists() || g.Reads() || g.Ref().Name != "" {
		t.Errorf("AuthorizeList = %+v, %v; want a listing grant", g, err)
	}
	for name, c := range map[string]struct {
		id  scope.Identity
		ref scope.Ref
	}{
		"a caller with no right to any name": {scope.Identity{Namespace: "x"}, scope.Ref{Store: "shared"}},
		"another store-side namespace":       {web, scope.Ref{Store: "shared", Namespace: "kube-system"}},
	} {
		if g, err := p.AuthorizeList(c.id, c.ref); err == nil || g.Lists() {
			t.Errorf("%s: listing granted", name)
		}
	}
	if _, err := p.AuthorizeList(web, scope.Ref{Store: "payments"}); !errors.Is(err, scope.ErrStoreNotFound) {
		t.Errorf("hidden store: %v", err)
	}
	open := policy(t, scope.Rules{Stores: []scope.Store{{Name: "a"}}, Scopes: []scope.StoreScope{{Store: "a", Default: "deny"}}})
	if _, err := open.AuthorizeList(scope.Identity{}, scope.Ref{Store: "a"}); err != nil {
		t.Errorf("Dapr answers a bulk of a denied store with {}, so the listing itself is allowed: %v", err)
	}
}

func TestReferencesGiveCallersNothing(t *testing.T) {
	rules := scope.Rules{
		Stores: []scope.Store{{Name: "hidden", AppIDs: []string{"nobody"}}, {Name: "open"}},
		Scopes: []scope.StoreScope{{Store: "hidden", Default: "deny"}},
	}
	p := policy(t, rules)
	ref := scope.Ref{Store: "hidden", Name: "token"}
	g, err := p.AuthorizeReference(scope.Store{Name: "open"}, ref)
	if err != nil || !g.Reads() || !g.IsReference() || g.Identity() != (scope.Identity{}) {
		t.Fatalf("AuthorizeReference = %+v, %v", g, err)
	}
	if _, err := p.Authorize(scope.Identity{AppID: "app"}, ref); !errors.Is(err, scope.ErrStoreNotFound) {
		t.Errorf("a store reached by reference is readable by a caller: %v", err)
	}
	if _, err := p.AuthorizeReference(scope.Store{Name: "open"}, scope.Ref{Store: "nope"}); !errors.Is(err, scope.ErrStoreNotFound) {
		t.Errorf("unknown store: %v", err)
	}
}

func TestTenantsReferenceOnlyTheirOwn(t *testing.T) {
	p := policy(t, shop(true))
	tenant := scope.Store{Name: "db", Namespace: "payments"}
	if _, err := p.AuthorizeReference(tenant, scope.Ref{Store: "payments", Name: "x"}); err != nil {
		t.Errorf("own namespace: %v", err)
	}
	for _, ref := range []scope.Ref{
		{Store: "untouched", Name: "x"},
		{Store: "shared", Name: "shop/db"},
		{Store: "payments", Name: "x", Namespace: "shop"},
	} {
		if g, err := p.AuthorizeReference(tenant, ref); err == nil || g.Reads() {
			t.Errorf("%+v: a tenant's component reached it", ref)
		}
	}
	other := scope.Store{Name: "db", Namespace: "shop"}
	if _, err := p.AuthorizeReference(other, scope.Ref{Store: "payments", Name: "x"}); !errors.Is(err, scope.ErrStoreNotFound) {
		t.Errorf("another tenant's store: %v", err)
	}
}

// TestGrantsThatTheStoreHasToBack: a grant says when it rests on the store's own decision about the pod.
func TestGrantsThatTheStoreHasToBack(t *testing.T) {
	rules := shop(true)
	rules.Policies = append(rules.Policies, scope.AccessRule{
		Subjects: []scope.Subject{{Namespace: "bank"}}, Stores: []string{"kubernetes"}, Allow: []string{"*"}, Source: "policy.yaml:30",
	})
	p := policy(t, rules)
	for namespace, want := range map[string]bool{"shop": true, "bank": false} {
		id := scope.Identity{Namespace: namespace, ServiceAccount: "default"}
		ref := scope.Ref{Store: "kubernetes", Name: "x"}
		g, err := p.Authorize(id, ref)
		if err != nil || g.AsPod() != want {
			t.Errorf("%s: Authorize gives AsPod %t, %v; want %t", namespace, g.AsPod(), err, want)
		}
		if g, err = p.AuthorizeReference(scope.Store{Namespace: namespace}, ref); err != nil || g.AsPod() != want {
			t.Errorf("%s: AuthorizeReference gives AsPod %t, %v; want %t", namespace, g.AsPod(), err, want)
		}
	}
	g, err := p.AuthorizeList(scope.Identity{Namespace: "shop"}, scope.Ref{Store: "kubernetes"})
	if err != nil || !g.AsPod() {
		t.Errorf("AuthorizeList gives AsPod %t, %v", g.AsPod(), err)
	}
}

func TestVisible(t *testing.T) {
	p := policy(t, shop(true))
	if !p.Visible(scope.Identity{Namespace: "payments"}, "payments") || p.Visible(scope.Identity{Namespace: "shop"}, "payments") || p.Visible(scope.Identity{}, "nope") {
		t.Error("visibility does not follow the namespace")
	}
}

func TestLiveStartsClosedAndSwitchesWhole(t *testing.T) {
	var live scope.Live
	if _, err := live.Authorize(scope.Identity{}, scope.Ref{Store: "a"}); !errors.Is(err, scope.ErrStoreNotFound) {
		t.Errorf("a Live without a policy: %v", err)
	}
	p := policy(t, scope.Rules{Stores: []scope.Store{{Name: "a"}}})
	live.Set(p)
	if _, err := live.Authorize(scope.Identity{}, scope.Ref{Store: "a", Name: "x"}); err != nil {
		t.Error(err)
	}
	if live.Policy() != p {
		t.Error("Policy is not the one that was set")
	}
}

func TestGlobs(t *testing.T) {
	cases := []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "a/b:c", true}, {"a*", "a", true}, {"a*c", "abbc", true}, {"a*c", "abcd", false},
		{"*b*", "abc", true}, {"a?c", "abc", true}, {"a?c", "ac", false}, {"**", "x", true}, {"", "", true}, {"", "a", false},
		{"prod/*", "prod/db/password", true}, {"prod/*", "production", false}, {"*/root", "a/b/root", true}, {"a.c", "abc", false}, {"[a]", "a", false},
	}
	for _, c := range cases {
		p := policy(t, scope.Rules{
			Stores:   []scope.Store{{Name: "s"}},
			Policies: []scope.AccessRule{{Subjects: []scope.Subject{{}}, Stores: []string{"s"}, Allow: []string{c.pattern}}},
		})
		_, err := p.Authorize(scope.Identity{}, scope.Ref{Store: "s", Name: c.name})
		if (err == nil) != c.want {
			t.Errorf("%q matches %q = %v, want %v", c.pattern, c.name, err == nil, c.want)
		}
	}
}

// FuzzGlob checks the matcher against the definition of a glob, by recursion.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"a*b?c", "axxbyc"}, {"*a*a*a", "aaaa"}, {"?", ""}, {"***", "x"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 12 {
			t.Skip("the definition is exponential")
		}
		p := policy(t, scope.Rules{
			Stores:   []scope.Store{{Name: "s"}},
			Policies: []scope.AccessRule{{Subjects: []scope.Subject{{}}, Stores: []string{"s"}, Allow: []string{pattern}}},
		})
		_, err := p.Authorize(scope.Identity{}, scope.Ref{Store: "s", Name: name})
		if want := defined(pattern, name); (err == nil) != want {
			t.Errorf("%q matches %q = %v, want %v", pattern, name, err == nil, want)
		}
	})
}

func defined(pattern, name string) bool {
	switch {
	case pattern == "":
		return name == ""
	case pattern[0] == '*':
		return defined(pattern[1:], name) || name != "" && defined(pattern, name[1:])
	default:
		return name != "" && (pattern[0] == '?' || pattern[0] == name[0]) && defined(pattern[1:], name[1:])
	}
}

func TestDeniedTextIsDaprs(t *testing.T) {
	err := &scope.DeniedError{Ref: scope.Ref{Store: "vault", Name: "a\"b"}, Rule: "policy.yaml:3"}
	if got, want := err.Error(), `access denied by policy to get "a\"b" from "vault"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if strings.Contains(err.Error(), "policy.yaml") {
		t.Error("the caller is shown where the rule stands")
	}
}

func BenchmarkAuthorize(b *testing.B) {
	p, err := scope.NewPolicy(shop(true))
	if err != nil {
		b.Fatal(err)
	}
	id := scope.Identity{Namespace: "shop", ServiceAccount: "web-eu", AppID: "web"}
	ref := scope.Ref{Store: "shared", Name: "shop/db"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Authorize(id, ref); err != nil {
			b.Fatal(err)
		}
	}
}
