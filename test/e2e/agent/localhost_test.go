package agent_test

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// caller is a pod of the client's image, with no token and no variable in its environment.
type caller struct {
	namespace, name string
	serviceAccount  string // "" is app
	annotations     map[string]string
	attributes      map[string]string // of a volume at /secrets; nil: none
	spec            string            // more of the pod's, as YAML at that place
	security        string            // the container's securityContext, as a flow of YAML
	init            bool              // an init container calls localhost first
}

var asksLocalhost = map[string]string{"keywell.dev/api": "localhost"}

const (
	secretPath = "/v1.0/secrets/vault/db"
	localhost  = "http://localhost:3500"
	theSecret  = `200 {"password":"from a file"}` + "\n"
)

func (c caller) pod() pod { return pod{namespace: c.namespace, name: c.name} }

func (c caller) account() string {
	if c.serviceAccount == "" {
		return "app"
	}
	return c.serviceAccount
}

func (c caller) manifest() string {
	init, volumes, mounts := "", "", ""
	if c.init {
		init = fmt.Sprintf("\n  initContainers: [{name: first, image: %q, imagePullPolicy: Never, args: [await, %s]}]", clientImage, secretPath)
	}
	if c.attributes != nil {
		volumes = "\n  volumes: [{name: secrets, csi: {driver: csi.keywell.dev, readOnly: true, volumeAttributes: " + toJSON(c.attributes) + "}}]"
		mounts = "{name: secrets, mountPath: /secrets, readOnly: true}"
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, annotations: %s}
spec:
  serviceAccountName: %s
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0%s%s%s
  containers:
  - {name: main, image: %q, imagePullPolicy: Never, args: [wait], securityContext: {%s}, volumeMounts: [%s]}
  - {name: shell, image: %q, imagePullPolicy: Never, command: [sleep, "3600"], securityContext: {%[9]s}, volumeMounts: [%[10]s]}
`, c.name, c.namespace, toJSON(c.annotations), c.account(), c.spec, init, volumes, clientImage, c.security, mounts, cluster.BusyboxImage)
}

func (c caller) start(t *testing.T) caller {
	t.Helper()
	apply(t, c.manifest())
	c.pod().waitReady(t)
	return c
}

// call runs the client in the pod.
func (c caller) call(t *testing.T, args ...string) string {
	t.Helper()
	return c.pod().exec(t, append([]string{"/client"}, args...)...)
}

// wants fails the test unless the call prints that.
func (c caller) wants(t *testing.T, want string, args ...string) {
	t.Helper()
	if diff := cmp.Diff(want, c.call(t, args...)); diff != "" {
		t.Errorf("%s/%s: %v (-want +got):\n%s", c.namespace, c.name, args, diff)
	}
}

// wantsSDK is wants for what the SDK returns; it prints something itself before.
func (c caller) wantsSDK(t *testing.T, want string, args ...string) {
	t.Helper()
	if got := c.call(t, args...); !strings.HasSuffix(got, "\n"+want) {
		t.Errorf("%s/%s: %v: %s", c.namespace, c.name, args, got)
	}
}

// followed is what a call prints that goes on.
type followed struct{ *bufio.Scanner }

// follow runs the client in the pod until the test ends.
func (c caller) follow(t *testing.T, args ...string) followed {
	t.Helper()
	cmd := node.Command(t.Context(), "kubectl", append([]string{"exec", "--namespace", c.namespace, c.name, "-c", "main", "--", "/client"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // it is killed
	return followed{bufio.NewScanner(out)}
}

// next fails the test unless a line follows, as one of those that are printed now.
func (f followed) next(t *testing.T, want string) {
	t.Helper()
	var before []string
	for f.Scan() {
		if f.Text() == want {
			return
		}
		before = append(before, f.Text())
	}
	t.Errorf("%q does not come, but %q", want, before)
}

// refused fails the test unless nobody listens at the URL, seen from the pod.
func (c caller) refused(t *testing.T, url string) {
	t.Helper()
	if err := c.isRefused(t, url); err != nil {
		t.Error(err)
	}
}

func (c caller) isRefused(t *testing.T, url string) error {
	out, err := node.Kubectl(t.Context(), "exec", "--namespace", c.namespace, c.name, "-c", "main", "--", "/client", "get", url)
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		return fmt.Errorf("%s in %s/%s: %q, %v", url, c.namespace, c.name, out, err)
	}
	return nil
}

// isAnswered is nil if localhost gives the pod what the path names.
func (c caller) isAnswered(t *testing.T, path string) error {
	out, err := node.Kubectl(t.Context(), "exec", "--namespace", c.namespace, c.name, "-c", "main", "--", "/client", "get", localhost+path)
	if err == nil && !strings.HasPrefix(out, "200 ") {
		err = errors.New(out)
	}
	return err
}

// answers waits until localhost gives the pod the secret again, and returns how long that took.
func (c caller) answers(t *testing.T) time.Duration {
	t.Helper()
	return eventually(t, patience, func() error { return c.isAnswered(t, secretPath) })
}

// address is the pod's own.
func (c caller) address(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, "get", "pod", c.name, "--namespace", c.namespace, "-o", "jsonpath={.status.podIP}"))
}

// installLocalhost installs Keywell with the API on the localhost of pods that ask for it.
func installLocalhost(t *testing.T, namespaces ...string) {
	t.Helper()
	putVault(t)
	install(t, withVault(namespaces...).with("localhost", values{"enabled": true, "pods": "asked"}))
}

// TestLocalhost calls the API from pods that nothing has configured.
func TestLocalhost(t *testing.T) {
	installLocalhost(t, "insiders")
	ns, outside := newNamespace(t, "insiders"), newNamespace(t, "outsiders")
	apply(t, reader(ns, "app")+reader(outside, "app"))
	app := caller{namespace: ns, name: "app", annotations: asksLocalhost, init: true}
	other := caller{namespace: outside, name: "app", annotations: asksLocalhost}
	silent := caller{namespace: ns, name: "silent"}
	apply(t, app.manifest()+other.manifest()+silent.manifest())
	for _, c := range []caller{app, other, silent} {
		c.pod().waitReady(t)
	}
	app.answers(t)

	t.Run("HTTP", func(t *testing.T) { app.wants(t, theSecret, "get", localhost+secretPath) })
	t.Run("IPv4 and IPv6", func(t *testing.T) {
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			app.wants(t, theSecret, "get", "http://"+host+":3500"+secretPath)
		}
	})
	t.Run("Dapr Go SDK", func(t *testing.T) {
		app.wantsSDK(t, `{"password":"from a file"}`+"\n", "localhost-sdk", vault, "db")
	})
	t.Run("an init container", func(t *testing.T) {
		t.Log(kubectl(t, "logs", "app", "--namespace", ns, "-c", "first"))
	})
	t.Run("a pod that does not ask", func(t *testing.T) { silent.refused(t, localhost+secretPath) })
	t.Run("what the policy does not allow", func(t *testing.T) {
		if got := other.call(t, "get", localhost+secretPath); !strings.HasPrefix(got, "401 ") && !strings.HasPrefix(got, "403 ") {
			t.Errorf("a pod of another namespace gets %s", got)
		}
	})
	t.Run("a pod of the same name", func(t *testing.T) {
		app.pod().delete(t)
		again := caller{namespace: ns, name: "app"}.start(t)
		again.refused(t, localhost+secretPath)
	})
}

// TestSockets calls the API by the sockets in volumes, as users of several kinds, and by localhost as the volume asks.
func TestSockets(t *testing.T) {
	installLocalhost(t, "sockets")
	ns := newNamespace(t, "sockets")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": "of the cluster"}))
	const nobody = "runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true"
	both := caller{namespace: ns, name: "both", security: nobody, attributes: map[string]string{"api": "socket, localhost"}}
	group := caller{namespace: ns, name: "group", security: nobody, attributes: map[string]string{"api": "socket", "store": vault, "secrets": "db"},
		spec: "\n  securityContext: {fsGroup: 2000}"}
	foreign := caller{namespace: ns, name: "foreign", security: nobody, attributes: map[string]string{"api": "socket", "mode": "0400"}}
	host := caller{namespace: ns, name: "host", attributes: map[string]string{"api": "socket"}, spec: "\n  hostNetwork: true"}
	outside := newNamespace(t, "outside-sockets")
	apply(t, reader(outside, "app"))
	other := caller{namespace: outside, name: "both", attributes: map[string]string{"api": "socket"}}
	apply(t, both.manifest()+group.manifest()+foreign.manifest()+host.manifest()+other.manifest())
	for _, c := range []caller{both, group, foreign, host, other} {
		c.pod().waitReady(t)
	}
	for _, c := range []caller{both, group, host} {
		c.wants(t, theSecret, "socket", secretPath)
		c.wantsSDK(t, `{"password":"from a file"}`+"\n", "socket-sdk", vault, "db")
	}
	t.Run("localhost by a volume, with the pod's own token for the store", func(t *testing.T) {
		both.answers(t)
		both.wants(t, `200 {"password":"of the cluster"}`+"\n", "get", localhost+"/v1.0/secrets/kubernetes/db")
	})
	t.Run("a rotation is told on localhost", func(t *testing.T) {
		sdk, events := both.follow(t, "subscribe", "kubernetes", "db"), both.follow(t, "events", localhost+"/v1.0/secrets/kubernetes/db?watch")
		sdk.next(t, "subscribed")
		events.next(t, `data: {"password":"of the cluster"}`)
		setField(t, ns, "db", "password", "rotated")
		sdk.next(t, "db rotated")
		events.next(t, `data: {"password":"rotated"}`)
	})
	t.Run("a pod of another namespace", func(t *testing.T) {
		if got := other.call(t, "socket", secretPath); !strings.HasPrefix(got, "401 ") && !strings.HasPrefix(got, "403 ") {
			t.Errorf("it gets %s", got)
		}
	})
	t.Run("a user who may not read the volume", func(t *testing.T) {
		if out, err := node.Kubectl(t.Context(), "exec", "--namespace", ns, "foreign", "-c", "main", "--", "/client", "socket", secretPath); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("the agent is killed", func(t *testing.T) {
		began := time.Now()
		onNode(t, "kill -9 $(pidof agent)")
		both.answers(t)
		measured(t, "kill -9 of the agent to answers on localhost again", "%s", seconds(time.Since(began)))
		both.wants(t, theSecret, "socket", secretPath)
		waitRollout(t)
	})
}

// TestLocalhostRefused has pods that can't have the API on localhost, and are told why.
func TestLocalhostRefused(t *testing.T) {
	installLocalhost(t, "refused")
	ns := newNamespace(t, "refused")
	apply(t, reader(ns, "app"))
	host := caller{namespace: ns, name: "host", annotations: asksLocalhost, spec: "\n  hostNetwork: true"}
	busy := caller{namespace: ns, name: "busy"}
	apply(t, host.manifest()+busy.manifest())
	for _, c := range []caller{host, busy} {
		c.pod().waitReady(t)
	}
	wantEvent(t, ns, "host", "hostNetwork", "api: socket")
	host.refused(t, localhost+secretPath)
	if got := host.call(t, "get", "http://"+cluster.NodeIP+":3500"+secretPath); !strings.HasPrefix(got, "401 ") {
		t.Errorf("without a token, a pod in the node's network gets %s", got)
	}

	kubectl(t, "exec", "--namespace", ns, "busy", "-c", "shell", "--", "httpd", "-p", "127.0.0.1:50001", "-h", "/tmp")
	kubectl(t, "annotate", "pod", "busy", "--namespace", ns, "keywell.dev/api=localhost")
	wantEvent(t, ns, "busy", "port 3500 or 50001")
	busy.refused(t, localhost+secretPath)
}

// TestLocalhostForAll gives every pod the API on localhost, but those that can't have it or won't.
func TestLocalhostForAll(t *testing.T) {
	putVault(t)
	install(t, withVault("everybody").with("api", values{"enabled": false}).with("localhost", values{"enabled": true, "pods": "all"}))
	ns := newNamespace(t, "everybody")
	apply(t, reader(ns, "app"))
	silent := caller{namespace: ns, name: "silent", init: true}
	unwilling := caller{namespace: ns, name: "unwilling", annotations: map[string]string{"keywell.dev/api": "none"}}
	sidecar := caller{namespace: ns, name: "sidecar", annotations: map[string]string{"dapr.io/enabled": "true"}}
	host := caller{namespace: ns, name: "host", spec: "\n  hostNetwork: true"}
	apply(t, silent.manifest()+unwilling.manifest()+sidecar.manifest()+host.manifest())
	for _, c := range []caller{silent, unwilling, sidecar, host} {
		c.pod().waitReady(t)
	}
	silent.answers(t)
	silent.wants(t, theSecret, "get", localhost+secretPath)
	for _, c := range []caller{unwilling, sidecar, host} {
		c.refused(t, localhost+secretPath)
	}
	silent.refused(t, "http://"+cluster.NodeIP+":3500"+secretPath) // the node's port is off
	if events := kubectl(t, "get", "events", "--namespace", ns, "-o", "name", "--field-selector", "reason=SecretsAPINotOnLocalhost"); events != "" {
		t.Errorf("pods that asked for nothing have events: %s", events)
	}
}

// wantEvent waits until a pod has an event that says so.
func wantEvent(t *testing.T, ns, name string, parts ...string) {
	t.Helper()
	var message string
	eventually(t, patience, func() error {
		message = kubectl(t, "get", "events", "--namespace", ns, "-o", "jsonpath={.items[*].message}",
			"--field-selector", "reason=SecretsAPINotOnLocalhost,involvedObject.name="+name)
		if message == "" {
			return fmt.Errorf("pod %s has no event", name)
		}
		return nil
	})
	wantWhy(t, message, parts...)
}
