package agent_test

import (
	"fmt"
	"strings"
	"testing"
)

// pluginManifest is a pod that serves the type secretstores.mine to the node.
func pluginManifest(namespace, word string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: plugin, namespace: %s}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  volumes: [{name: sockets, hostPath: {path: /run/keywell-components, type: DirectoryOrCreate}}]
  containers:
  - {name: main, image: %q, imagePullPolicy: Never, args: [plugin, /sockets/mine.sock, %s], volumeMounts: [{name: sockets, mountPath: /sockets}],
     securityContext: {readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}}
`, namespace, clientImage, word)
}

// withPlugin has a store of the plugin's, which namespace may read.
func withPlugin(namespace, answer string) values {
	return defaults().
		with("plugins", values{"components": values{"enabled": true}}).
		with("stores", []values{{
			"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": values{"name": "plugin", "namespace": namespace},
			"spec": values{"type": "secretstores.mine", "version": "v1", "metadata": []values{{"name": "answer", "value": answer}}},
		}})
}

// TestPlugin has a store that a program of somebody else reads, which comes later than the pod that wants it, goes and
// comes again.
func TestPlugin(t *testing.T) {
	needRoot(t)
	ns, plugins := newNamespace(t, "plugged"), newNamespace(t, "plugins")
	apply(t, reader(ns, "app"))
	install(t, withPlugin(ns, "theirs"))
	app := caller{namespace: ns, name: "app", attributes: map[string]string{"store": "plugin", "secrets": "db", "refreshInterval": "1s", "api": "socket"}}
	apply(t, app.manifest())
	wantWhy(t, failedMount(t, app.pod()), `store "plugin"`, "not open")
	apply(t, pluginManifest(plugins, "first"))
	app.pod().waitReady(t)
	file := app.pod().directory(t) + "/db/password"
	waitFile(t, patience, file, "theirs, first")
	app.wants(t, `200 {"password":"theirs, first"}`+"\n", "socket", "/v1.0/secrets/plugin/db")

	pod{namespace: plugins, name: "plugin"}.delete(t)
	waitEvent(t, ns, "files may be out of date")
	app.wants(t, `200 {"password":"theirs, first"}`+"\n", "socket", "/v1.0/secrets/plugin/db")
	apply(t, pluginManifest(plugins, "second"))
	waitFile(t, patience, file, "theirs, second")
	app.wants(t, `200 {"password":"theirs, second"}`+"\n", "socket", "/v1.0/secrets/plugin/db")
}

// TestDaprd has the daprds of two pods, by their own code and as Dapr's injector runs them, read the store kubernetes:
// each as its pod, because of the volume that the socket is in.
func TestDaprd(t *testing.T) {
	needRoot(t)
	install(t, withPlugin("plugged", "theirs"))
	namespaces := []string{newNamespace(t, "daprd"), newNamespace(t, "daprd-too")}
	var daprds []caller
	for _, ns := range namespaces {
		apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": "of " + ns}))
		daprd := caller{
			namespace: ns, name: "app", attributes: map[string]string{"api": "dapr-plugin"},
			security: "runAsUser: 65532, runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}",
		}
		apply(t, daprd.manifest())
		daprds = append(daprds, daprd)
	}
	const folder = "/secrets/dapr-components"
	for i, d := range daprds {
		d.pod().waitReady(t)
		if got := d.call(t, "daprd", folder, "kubernetes", "db", ""); !strings.HasSuffix(got, `{"password":"of `+d.namespace+`"}`+"\n") {
			t.Errorf("the daprd of %s gets %s", d.namespace, got)
		}
		other := namespaces[1-i]
		_, err := node.Kubectl(t.Context(), "exec", "--namespace", d.namespace, d.name, "--", "/client", "daprd", folder, "kubernetes", "db", other)
		if err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
			t.Errorf("the daprd of %s asks for the secret of %s: %v", d.namespace, other, err)
		}
	}
}
