package agent_test

import (
	"strings"
	"testing"
)

// TestTokensForPodsWithoutVolume lets agents make tokens in one namespace: there, and only there, a pod without a volume
// reads Secrets by the API, with its own rights.
func TestTokensForPodsWithoutVolume(t *testing.T) {
	needRoot(t)
	granted, other := newNamespace(t, "tokens"), newNamespace(t, "no-tokens")
	apply(t, reader(granted, "app")+reader(other, "app")+
		secretOf(granted, "mine", map[string]string{"password": "p-1"})+secretOf(other, "mine", map[string]string{"password": "p-2"})+
		mayRead(granted, "app", "mine")+mayRead(other, "app", "mine")+clientPod(granted, "app")+clientPod(other, "app"))
	install(t, defaults().with("requestTokens", values{"enabled": true, "namespaces": []string{granted}}))
	for _, test := range []struct{ namespace, path, want string }{
		{granted, "/v1.0/secrets/kubernetes/mine", `200 {"password":"p-1"}`},
		{granted, "/v1.0/secrets/kubernetes/mine?metadata.namespace=" + other, "403 "},
		{other, "/v1.0/secrets/kubernetes/mine", "500 "},
	} {
		p := pod{namespace: test.namespace, name: "app"}
		p.waitReady(t)
		if got := p.exec(t, "/client", "http", test.path); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s of a pod in %s: %s", test.path, test.namespace, got)
		}
	}
	for _, namespace := range []string{granted, other} {
		_, err := node.Kubectl(t.Context(), "auth", "can-i", "create", "serviceaccounts", "--subresource", "token", "--namespace", namespace,
			"--as", "system:serviceaccount:"+keywellNamespace+":keywell")
		if can := err == nil; can != (namespace == granted) {
			t.Errorf("may the agent make tokens in %s? %v", namespace, can)
		}
	}
}
