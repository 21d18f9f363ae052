package component_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
)

func object(kind, namespace, name, members string) component.Object {
	version := "dapr.io/v1alpha1"
	if kind == component.KindAccessPolicy {
		version = "keywell.dev/v1alpha1"
	}
	metadata := fmt.Sprintf(`{"name":%q}`, name)
	if namespace != "" {
		metadata = fmt.Sprintf(`{"name":%q,"namespace":%q}`, name, namespace)
	}
	return component.Object{Kind: kind, Namespace: namespace, Name: name, JSON: fmt.Appendf(nil,
		`{"apiVersion":%q,"kind":%q,"metadata":%s,%s}`, version, kind, metadata, members)}
}

func storeObject(namespace, name string) component.Object {
	return object(component.KindComponent, namespace, name,
		`"spec":{"type":"secretstores.local.file","version":"v1","metadata":[{"name":"secretsFile","value":"/x.json"},{"name":"nestedSeparator","secretKeyRef":{"name":"a","key":"b"}}]},"scopes":["web"]`)
}

func policyObject(name, rules string) component.Object {
	return object(component.KindAccessPolicy, "", name, `"spec":{"rules":[`+rules+`]}`)
}

const rule = `{"subjects":[{"namespace":"shop"}],"stores":["vault"],"allow":["*"]}`

func newObjects() *component.Objects {
	return component.NewObjects(component.ObjectsOptions{Trusted: component.TrustNamespaces([]string{"shop", "bank"})})
}

func texts(problems []component.Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.String())
	}
	return all
}

// TestObjects: what objects say, with their names in place of file and line.
func TestObjects(t *testing.T) {
	m, problems := newObjects().Load([]component.Object{
		storeObject("shop", "vault"), storeObject("bank", "vault"), storeObject("evil", "vault"),
		object(component.KindComponent, "shop", "queue", `"spec":{"type":"pubsub.redis","version":"v1"}`),
		object(component.KindComponent, "shop", "vault", `"spec":{"type":"secretstores.keywell","version":"v1"}`),
		object(component.KindConfiguration, "shop", "narrow", `"spec":{"tracing":{},"secrets":{"scopes":[{"storeName":"vault","defaultAccess":"deny"}]}}`),
		policyObject("web", rule+","+rule),
	})
	want := []string{
		`warning: Component evil/vault: metadata.namespace: a store is opened with the agent's own rights, and namespace "evil" is not trusted with these; ` +
			`name the namespace in --component-namespace (the chart's value objects.componentNamespaces), or have an admin define the store in a file`,
		`note: Component shop/queue: component "queue" of type "pubsub.redis" is not a secret store`,
		`note: Component shop/vault: component "vault" of type "secretstores.keywell" is for a daprd, which has it from an agent`,
	}
	if diff := cmp.Diff(want, texts(problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	rules := m.Rules(true)
	wantStores := []scope.Store{
		{Name: "vault", Namespace: "shop", Namespaced: true, AppIDs: []string{"web"}, Source: "Component shop/vault"},
		{Name: "vault", Namespace: "bank", Namespaced: true, AppIDs: []string{"web"}, Source: "Component bank/vault"},
	}
	if diff := cmp.Diff(wantStores, rules.Stores); diff != "" {
		t.Errorf("stores (-want +got):\n%s", diff)
	}
	wantConfigurations := []scope.Configuration{{Namespace: "shop", Name: "narrow", Source: "Configuration shop/narrow", Scopes: []scope.StoreScope{
		{Store: "vault", Default: "deny", Source: "Configuration shop/narrow spec.secrets.scopes[0]"},
	}}}
	if diff := cmp.Diff(wantConfigurations, rules.Configurations); diff != "" {
		t.Errorf("configurations (-want +got):\n%s", diff)
	}
	if len(rules.Scopes) > 0 {
		t.Errorf("a pod's Configuration counts for everyone: %+v", rules.Scopes)
	}
	if len(rules.Policies) != 2 || rules.Policies[1].Source != "AccessPolicy web spec.rules[1]" {
		t.Errorf("policies: %+v", rules.Policies)
	}
	c := m.Components[0]
	if c.Key() != "shop/vault" || c.SecretStore != "kubernetes" || c.Metadata[1].Position.String() != "Component shop/vault spec.metadata[1]" {
		t.Errorf("component %q refers to %q at %q", c.Key(), c.SecretStore, c.Metadata[1].Position)
	}
	if _, err := scope.NewPolicy(rules); err != nil {
		t.Error(err)
	}
}

// TestObjectsTurnBad: a version that can't be used changes nothing, and one that was never good opens nothing.
func TestObjectsTurnBad(t *testing.T) {
	bad := map[string]component.Object{
		component.KindComponent:     object(component.KindComponent, "shop", "x", `"spec":{"type":"secretstores.local.file","version":"v9"}`),
		component.KindConfiguration: object(component.KindConfiguration, "shop", "x", `"spec":{"secrets":{"scopes":[{"storeName":"vault","defaultAccess":"perhaps"}]}}`),
		component.KindAccessPolicy:  policyObject("x", `{"subjects":[],"stores":["vault"],"deny":["*"]}`),
	}
	good := map[string]component.Object{
		component.KindComponent:     storeObject("shop", "x"),
		component.KindConfiguration: object(component.KindConfiguration, "shop", "x", `"spec":{"secrets":{"scopes":[{"storeName":"vault","defaultAccess":"deny"}]}}`),
		component.KindAccessPolicy:  policyObject("x", rule),
	}
	for kind := range bad {
		t.Run(kind, func(t *testing.T) {
			o := newObjects()
			before, problems := o.Load([]component.Object{good[kind]})
			if len(problems) > 0 {
				t.Fatal(texts(problems))
			}
			after, problems := o.Load([]component.Object{bad[kind]})
			if diff := cmp.Diff(before.Rules(true), after.Rules(true)); diff != "" {
				t.Errorf("turned bad (-before +after):\n%s", diff)
			}
			if len(problems) != 1 || !strings.HasPrefix(problems[0].String(), "error: "+bad[kind].String()+": spec.") {
				t.Errorf("problems: %q", texts(problems))
			}
			if gone, problems := o.Load(nil); len(problems) > 0 || len(gone.Rules(true).Policies)+len(gone.Components)+len(gone.PodConfigurations) > 0 {
				t.Errorf("deleted: %+v, %q", gone, texts(problems))
			}
			first, _ := o.Load([]component.Object{bad[kind]})
			rules := first.Rules(true)
			switch kind {
			case component.KindComponent:
				if len(rules.Stores) > 0 {
					t.Errorf("a store: %+v", rules.Stores)
				}
			case component.KindConfiguration:
				if len(rules.Configurations) != 1 || !rules.Configurations[0].Faulty || len(rules.Policies) > 0 {
					t.Errorf("not closed for its pods only: %+v", rules)
				}
			case component.KindAccessPolicy:
				if len(rules.Policies) != 1 || rules.Policies[0].Source != "AccessPolicy x: faulty, may hold a policy" {
					t.Errorf("not closed: %+v", rules.Policies)
				}
			}
		})
	}
}

// TestNoMetadataValueInProblems: a problem is logged, and a value may be a credential.
func TestNoMetadataValueInProblems(t *testing.T) {
	_, problems := newObjects().Load([]component.Object{object(component.KindComponent, "shop", "x",
		`"spec":{"type":"secretstores.local.file","version":"v1","metadata":[{"name":"a","value":"canary"},{"name":"A","value":"canary"}]}`)})
	want := []string{`error: Component shop/x: spec.metadata[1]: "A" and "a" in spec.metadata[0] differ only by case; keep one of the two`}
	if diff := cmp.Diff(want, texts(problems)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
