package agent_test

import (
	"fmt"
	"testing"
)

// classCRD is as much of the CRD of SecretProviderClasses as it takes to hold them.
const classCRD = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: secretproviderclasses.secrets-store.csi.x-k8s.io}
spec:
  group: secrets-store.csi.x-k8s.io
  scope: Namespaced
  names: {kind: SecretProviderClass, plural: secretproviderclasses, singular: secretproviderclass, listKind: SecretProviderClassList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// class is a SecretProviderClass as the Secrets Store CSI driver's users write one.
func class(namespace, object string) string {
	return fmt.Sprintf(`---
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: db, namespace: %s}
spec: {provider: fake, parameters: {object: %s}}
`, namespace, object)
}

// providerManifest is a pod that serves the provider "fake" to the node.
func providerManifest(namespace, word string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: provider, namespace: %s}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  volumes: [{name: sockets, hostPath: {path: /var/run/secrets-store-csi-providers, type: DirectoryOrCreate}}]
  containers:
  - {name: main, image: %q, imagePullPolicy: Never, args: [provider, /sockets/fake.sock, %s], volumeMounts: [{name: sockets, mountPath: /sockets}]}
`, namespace, clientImage, word)
}

// TestSecretProviderClass has pods use a class and a provider as they are: each for its pod, rewritten when the class or the
// provider's answer changes, kept while the provider is away and over an agent's restart, and out of reach from another
// namespace.
func TestSecretProviderClass(t *testing.T) {
	needRoot(t)
	shop, bank, providers := newNamespace(t, "classes"), newNamespace(t, "no-classes"), newNamespace(t, "providers")
	apply(t, reader(shop, "app")+reader(bank, "app"))
	apply(t, classCRD)
	t.Cleanup(func() { cleanupKubectl("delete", "crd", "secretproviderclasses.secrets-store.csi.x-k8s.io") })
	eventually(t, patience, func() error { // the CRD takes a moment
		return node.Apply(t.Context(), class(shop, "password"))
	})
	install(t, defaults().
		with("tokenRequests", []values{{"audience": ""}, {"audience": "provider"}}).
		with("plugins", values{"secretProviderClasses": values{"enabled": true, "audiences": []string{"provider"}}}))
	attributes := map[string]string{"secretProviderClass": "db", "refreshInterval": "1s", "api": "socket"}
	app := caller{namespace: shop, name: "app", attributes: attributes}
	apply(t, app.manifest())
	wantWhy(t, failedMount(t, app.pod()), "no provider fake on this node")

	apply(t, providerManifest(providers, "first"))
	app.pod().waitReady(t)
	file := app.pod().directory(t) + "/db/password"
	of := func(object, word string) string { return fmt.Sprintf("%s of %s/app for app, %s", object, shop, word) }
	waitFile(t, patience, file, of("password", "first"))
	app.wants(t, `200 {"db/password":"`+of("password", "first")+`"}`+"\n", "socket", "/v1.0/secrets/secretproviderclass:db/db")
	apply(t, class(shop, "other"))
	waitFile(t, patience, file, of("other", "first"))

	stranger := caller{namespace: bank, name: "stranger", attributes: attributes}
	apply(t, stranger.manifest())
	wantWhy(t, failedMount(t, stranger.pod()), "store not found")

	pod{namespace: providers, name: "provider"}.delete(t)
	waitEvent(t, shop, "files may be out of date")
	onNode(t, "kill -9 $(pidof agent)")
	waitInstalled(t)
	waitFile(t, 0, file, of("other", "first"))
	apply(t, providerManifest(providers, "second"))
	waitFile(t, patience, file, of("other", "second"))
}
