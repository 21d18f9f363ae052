package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// clientPod is a Dapr application, with a token for Keywell and one for somebody else.
func clientPod(namespace, name string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  serviceAccountName: app
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: %s
    imagePullPolicy: Never
    args: [wait]
    env: [{name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
    volumeMounts: [{name: token, mountPath: /token}]
  - {name: shell, image: keywell.test/busybox:1, imagePullPolicy: Never, command: [sleep, "3600"], volumeMounts: [{name: token, mountPath: /token}]}
  volumes:
  - name: token
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: keywell, expirationSeconds: 600}
      - serviceAccountToken: {path: other, audience: somebody-else, expirationSeconds: 600}
`, name, namespace, clientImage)
}

// TestAPI calls the secrets API from pods, at their node's address.
func TestAPI(t *testing.T) {
	installVault(t, "callers")
	ns, stranger := newNamespace(t, "callers"), newNamespace(t, "strangers")
	apply(t, reader(ns, "app")+reader(stranger, "app")+clientPod(ns, "app")+clientPod(ns, "leaver")+clientPod(stranger, "app"))
	app, leaver, other := pod{namespace: ns, name: "app"}, pod{namespace: ns, name: "leaver"}, pod{namespace: stranger, name: "app"}
	for _, p := range []pod{app, leaver, other} {
		p.waitReady(t)
	}
	call := func(p pod, args ...string) string { return p.exec(t, append([]string{"/client"}, args...)...) }
	token := func(p pod, name string) string {
		return kubectl(t, "exec", "--namespace", p.namespace, p.name, "-c", "shell", "--", "cat", "/token/"+name)
	}
	const path = "/v1.0/secrets/vault/db"

	eventually(t, patience, func() error { // an upgrade is in force once the kubelet has brought it to the node
		if got := call(app, "http", path); !strings.HasPrefix(got, "200 ") {
			return errors.New(got)
		}
		return nil
	})

	t.Run("HTTP", func(t *testing.T) {
		if diff := cmp.Diff(`200 {"password":"from a file"}`+"\n", call(app, "http", path)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("Dapr Go SDK", func(t *testing.T) {
		// The SDK itself prints before.
		if got := call(app, "sdk", vault, "db"); !strings.HasSuffix(got, "\n"+`{"password":"from a file"}`+"\n") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("what the policy does not allow", func(t *testing.T) {
		if got := call(app, "http", "/v1.0/secrets/vault/api-key"); !strings.HasPrefix(got, "403 ") {
			t.Errorf("got %s", got)
		}
		if got := call(other, "http", path); !strings.HasPrefix(got, "401 ") && !strings.HasPrefix(got, "403 ") {
			t.Errorf("a pod of another namespace gets %s", got)
		}
	})
	for name, presented := range map[string]func() string{
		"no token":                     func() string { return "" },
		"a token for another audience": func() string { return token(app, "other") },
		"a token with another ending":  func() string { return token(app, "token") + "x" },
	} {
		t.Run(name, func(t *testing.T) {
			if got := call(app, "http", path, presented()); !strings.HasPrefix(got, "401 ") {
				t.Errorf("got %s", got)
			}
		})
	}
	t.Run("the token of a pod that is deleted", func(t *testing.T) {
		stolen := token(leaver, "token")
		if got := call(app, "http", path, stolen); !strings.HasPrefix(got, "200 ") {
			t.Fatalf("while the pod lives: %s", got)
		}
		leaver.delete(t)
		if got := call(app, "http", path, stolen); !strings.HasPrefix(got, "401 ") {
			t.Errorf("after its end: %s", got)
		}
	})
}
