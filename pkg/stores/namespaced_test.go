package stores_test

import (
	"testing"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/stores"
)

// ofNamespace makes c an object of a namespace.
func ofNamespace(namespace string, c component.Component) component.Component {
	c.Namespace, c.Namespaced = namespace, true
	return c
}

// TestNamespacedStores: stores of one name don't get in each other's way, and refer to their own namespace's first.
func TestNamespacedStores(t *testing.T) {
	run(t, []string{"s"}, func(f *fixture) {
		f.apply(store("s"), ofNamespace("shop", store("s")), ofNamespace("bank", store("s")))
		equal(t, "state", "bank/s: open\ns: open\nshop/s: open", f.reasons())
		status, ok := f.set.Find("shop/s")
		equal(t, "found", []any{true, "shop/s", "s", "shop"}, []any{ok, status.Key, status.Name, status.Namespace})
		f.resolver.take()
		f.apply(store("s"), ofNamespace("shop", store("s")))
		equal(t, "one is gone", "-bank/s", f.resolver.take())
	})
}

// TestReferenceToWhatReadsAsThePod: nobody's rights are there to read it with, such as a Kubernetes Secret by Dapr's default.
func TestReferenceToWhatReadsAsThePod(t *testing.T) {
	run(t, []string{"s", "source"}, func(f *fixture) {
		source := store("source", value("identity", "pod"))
		source.Type = "secretstores.twin"
		c := ofNamespace("shop", store("s", ref("password", "n", "k")))
		c.SecretStore = "source"
		f.apply(source, c)
		why := `m.yaml:9: secretKeyRef of password: store "source" of auth.secretStore is read with the rights of the pod that asks, and a component is no pod; ` +
			`bring the credential to the agent as an environment variable (the chart's value credentials) and write envRef, or name another store in auth.secretStore`
		equal(t, "state", "shop/s: closed: "+why+"\nsource: open", f.reasons())
		problems := stores.Check([]component.Component{source, c}, f.drivers())
		equal(t, "check", []string{"error: " + why}, []string{problems[len(problems)-1].String()})
	})
}
