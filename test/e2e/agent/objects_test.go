package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// daprCRD is as much of one of Dapr's CRDs as it takes to hold its objects.
func daprCRD(kind, plural string) string {
	return fmt.Sprintf(`---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[2]s.dapr.io}
spec:
  group: dapr.io
  scope: Namespaced
  names: {kind: %[1]s, plural: %[2]s, singular: %[3]s, listKind: %[1]sList}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, kind, plural, strings.ToLower(kind))
}

// fileStore is a Component named vault, as Dapr's users write one, in a namespace.
func fileStore(namespace, file string) string {
	return fmt.Sprintf(`---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault, namespace: %s}
spec:
  type: secretstores.local.file
  version: v1
  metadata: [{name: secretsFile, value: /etc/keywell/credentials/%s/secrets.json}, {name: multiValued, value: "true"}]
`, namespace, file)
}

// TestClusterObjects: Dapr's objects and AccessPolicies, as they come after the agent: stores of one name in two
// namespaces, a namespace that is not trusted, other namespaces by key, and pods that choose a Configuration.
func TestClusterObjects(t *testing.T) {
	needRoot(t)
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", keywellNamespace)+
		secretOf(keywellNamespace, "shop-file", map[string]string{"secrets.json": `{"db": {"password": "of the shop"}, "root": {"password": "r"}}`})+
		secretOf(keywellNamespace, "bank-file", map[string]string{"secrets.json": `{"db": {"password": "of the bank"}}`}))
	install(t, defaults().
		with("credentialFiles", []string{"shop-file", "bank-file"}).
		with("objects", values{"componentNamespaces": []string{"shop", "bank"}}))
	shop, bank, evil := newNamespace(t, "shop"), newNamespace(t, "bank"), newNamespace(t, "evil")
	apply(t, reader(shop, "app")+reader(bank, "app")+reader(evil, "app"))
	attributes := func(store string) map[string]string { return map[string]string{"store": store, "secrets": "db"} }

	early := pod{namespace: shop, name: "early", serviceAccount: "app", attributes: attributes("vault")}
	apply(t, early.manifest())
	wantWhy(t, failedMount(t, early), "store not found")
	apply(t, daprCRD("Component", "components")+daprCRD("Configuration", "configurations"))
	t.Cleanup(func() {
		cleanupKubectl("delete", "crd", "components.dapr.io", "configurations.dapr.io")
	})
	eventually(t, patience, func() error { // the CRDs take a moment
		return node.Apply(t.Context(), fileStore(shop, "shop-file")+fileStore(bank, "bank-file")+fileStore(evil, "shop-file"))
	})
	early.waitReady(t)
	early.wantFile(t, "db/password", "of the shop")

	other := pod{namespace: bank, name: "app", serviceAccount: "app", attributes: attributes("vault")}
	other.start(t)
	other.wantFile(t, "db/password", "of the bank")

	t.Run("a namespace that is not trusted", func(t *testing.T) {
		p := pod{namespace: evil, name: "own", serviceAccount: "app", attributes: attributes("vault")}
		apply(t, p.manifest())
		wantWhy(t, failedMount(t, p), "store not found")
	})
	t.Run("another namespace's store", func(t *testing.T) {
		p := pod{namespace: evil, name: "thief", serviceAccount: "app", attributes: attributes("shop/vault")}
		apply(t, p.manifest())
		wantWhy(t, failedMount(t, p), "store not found")
		apply(t, `
apiVersion: keywell.dev/v1alpha1
kind: AccessPolicy
metadata: {name: e2e}
spec: {rules: [{subjects: [{namespace: evil}], stores: [shop/vault], allow: [db]}]}
`)
		t.Cleanup(func() { cleanupKubectl("delete", "accesspolicy", "e2e") })
		p.waitReady(t)
		p.wantFile(t, "db/password", "of the shop")
	})
	t.Run("a policy that the schema refuses", func(t *testing.T) {
		err := node.Apply(t.Context(), "apiVersion: keywell.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: bad}\nspec: {rules: [{subjects: [{}], stores: [vault]}]}\n")
		if err == nil || !strings.Contains(err.Error(), "a rule has to allow or to deny something") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a policy with a subject that is misspelt", func(t *testing.T) {
		apply(t, "apiVersion: keywell.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: misspelt}\nspec: {rules: [{subjects: [{namespace: x}], stores: [vault], allow: [db]}]}\n")
		t.Cleanup(func() { cleanupKubectl("delete", "accesspolicy", "misspelt") })
		// Not as kubectl, which asks the API server to refuse what it does not know.
		patch(t, "/apis/keywell.dev/v1alpha1/accesspolicies/misspelt", `{"spec": {"rules": [{"subjects": [{"namespce": "x"}], "stores": ["vault"], "allow": ["db"]}]}}`)
		out, err := node.Kubectl(t.Context(), "exec", "daemonset/keywell", "--namespace", keywellNamespace, "--", "/agent", "explain",
			"--cluster", "--resources-path", "/etc/keywell/resources", "--config", "/etc/keywell/config/scopes.yaml", "--namespace", evil, "kubernetes", "db")
		if err == nil || !strings.Contains(out+err.Error(), "AccessPolicy misspelt") || !strings.Contains(out, "faulty") {
			t.Errorf("%s%v", out, err)
		}
	})
	t.Run("dapr.io/config", func(t *testing.T) {
		configured := func(name string) (pod, string) {
			p := pod{namespace: shop, name: name, serviceAccount: "app", attributes: attributes("vault")}
			return p, strings.Replace(p.manifest(), "metadata: {", `metadata: {annotations: {dapr.io/config: narrow}, `, 1)
		}
		first, manifest := configured("first")
		apply(t, manifest)
		wantWhy(t, failedMount(t, first), `dapr.io/config: "narrow"`, "no such Configuration")
		limits := func(allowed string) string {
			return fmt.Sprintf(`
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: narrow, namespace: %s}
spec: {secrets: {scopes: [{storeName: vault, defaultAccess: deny, allowedSecrets: [%s]}]}}
`, shop, allowed)
		}
		apply(t, limits("db"))
		first.waitReady(t)
		first.wantFile(t, "db/password", "of the shop")
		apply(t, limits("root"))
		eventually(t, patience, func() error {
			if log := cleanupKubectl("logs", "daemonset/keywell", "--namespace", keywellNamespace); !strings.Contains(log, `does not list \"db\"`) && !strings.Contains(log, `does not list \\\"db\\\"`) {
				return errors.New("the audit trail does not say that the pod is denied by its Configuration")
			}
			return nil
		})
		second, manifest := configured("second")
		apply(t, manifest)
		wantWhy(t, failedMount(t, second), `access denied by policy to get "db" from "vault"`)
	})
	t.Run("explain", func(t *testing.T) {
		out, err := node.Kubectl(t.Context(), "exec", "daemonset/keywell", "--namespace", keywellNamespace, "--", "/agent", "explain",
			"--cluster", "--component-namespace", shop, "--resources-path", "/etc/keywell/resources", "--config", "/etc/keywell/config/scopes.yaml", "--pod", shop+"/first", "vault", "db")
		if err == nil || !strings.Contains(out, `denied: Configuration shop/narrow spec.secrets.scopes[0]: allowedSecrets of store "vault" does not list "db"`) {
			t.Errorf("%s%v", out, err)
		}
	})
}
