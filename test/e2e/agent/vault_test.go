package agent_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// vaultServer is a real Vault on the node's address, as whose administrator the test acts.
type vaultServer struct {
	Addr  string `json:"addr"`
	CA    string `json:"ca"`
	Token string `json:"token"`
	Key   string `json:"unseal_key"`

	client *http.Client
	audit  string // file with a line of JSON for each request and each answer
}

// startVault starts the server that make vault-test builds. It ends with the test.
func startVault(t *testing.T) *vaultServer {
	t.Helper()
	needRoot(t)
	binary := os.Getenv("KEYWELL_VAULT")
	if binary == "" {
		t.Skip("no Vault: KEYWELL_VAULT names no server; make e2e builds one")
	}
	cmd := node.Command(t.Context(), binary, "-listen", cluster.NodeIP+":8200")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // which ends it
		_ = cmd.Wait()
	})
	v := &vaultServer{audit: filepath.Join(t.TempDir(), "audit.log")}
	if err := json.NewDecoder(out).Decode(v); err != nil {
		t.Fatalf("Vault did not start: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(v.CA))
	v.client = &http.Client{Transport: &http.Transport{
		DialContext: node.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "vault.test", MinVersion: tls.VersionTLS12},
	}}
	v.call(t, http.MethodPut, "sys/audit/file", values{"type": "file", "options": values{"file_path": v.audit}})
	return v
}

// call makes a request as the administrator and returns the answer's data.
func (v *vaultServer) call(t *testing.T, method, path string, body values) map[string]any {
	t.Helper()
	var encoded bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&encoded).Encode(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, v.Addr+"/v1/"+path, &encoded)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", v.Token)
	resp, err := v.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data   map[string]any
		Errors []string
	}
	_ = json.NewDecoder(resp.Body).Decode(&answer) // some have none
	if resp.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("%s %s: %s %v", method, path, resp.Status, answer.Errors)
	}
	return answer.Data
}

// serves is nil once the server answers again after it was unsealed.
func (v *vaultServer) serves(t *testing.T) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.Addr+"/v1/sys/health", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("its health is %s", resp.Status)
	}
	return nil
}

// count returns how many requests for paths with the prefix Vault has answered.
func (v *vaultServer) count(t *testing.T, prefix string) int {
	t.Helper()
	data, err := os.ReadFile(v.audit)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		var entry struct {
			Type    string
			Request struct{ Path string }
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Type == "response" && strings.HasPrefix(entry.Request.Path, prefix) {
			n++
		}
	}
	return n
}

// trust has Vault log in service accounts of the cluster: app of a namespace gets the policy app.
func (v *vaultServer) trust(t *testing.T, namespace string) {
	t.Helper()
	apply(t, reader(namespace, "vault")+fmt.Sprintf(`---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: vault-reviews-tokens}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: vault, namespace: %s}]
`, namespace))
	t.Cleanup(func() { cleanupKubectl("delete", "clusterrolebinding", "vault-reviews-tokens") })
	ca := kubectl(t, "get", "configmap", "kube-root-ca.crt", "--namespace", namespace, "--output", `jsonpath={.data.ca\.crt}`)
	v.call(t, http.MethodPost, "sys/auth/kubernetes", values{"type": "kubernetes"})
	v.call(t, http.MethodPost, "auth/kubernetes/config", values{
		"kubernetes_host": "https://" + cluster.NodeIP + ":6443", "kubernetes_ca_cert": ca, "disable_local_ca_jwt": true,
		"token_reviewer_jwt": strings.TrimSpace(kubectl(t, "create", "token", "vault", "--namespace", namespace)),
	})
	v.call(t, http.MethodPost, "auth/kubernetes/role/apps", values{
		"bound_service_account_names": "app", "bound_service_account_namespaces": namespace, "audience": "vault", "token_policies": "app", "token_ttl": "20m",
	})
}

func (v *vaultServer) policy(t *testing.T, rules ...string) {
	t.Helper()
	v.call(t, http.MethodPut, "sys/policies/acl/app", values{"policy": strings.Join(rules, "\n")})
}

// store is a Component for a mount, read as the pod.
func (v *vaultServer) store(name, mount string) values {
	var metadata []values
	for name, value := range map[string]string{
		"vaultAddr": v.Addr, "caPem": v.CA, "tlsServerName": "vault.test", "enginePath": mount, "identity": "pod",
		"vaultAuthMethod": "kubernetes", "vaultAuthRole": "apps",
	} {
		metadata = append(metadata, values{"name": name, "value": value})
	}
	return values{
		"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": values{"name": name},
		"spec": values{"type": "secretstores.hashicorp.vault", "version": "v1", "metadata": metadata},
	}
}

// TestVault reads a real Vault as the pod: Kubernetes auth, a rotation, a policy that is withdrawn, the agent killed with
// a live lease, and the lease revoked with the pod.
func TestVault(t *testing.T) {
	v := startVault(t)
	ns := newNamespace(t, "real-vault")
	apply(t, reader(ns, "app")+reader(ns, "other"))
	v.trust(t, ns)
	v.call(t, http.MethodPost, "sys/mounts/kv", values{"type": "kv", "options": values{"version": "2"}})
	v.call(t, http.MethodPost, "sys/mounts/pki", values{"type": "pki"})
	v.call(t, http.MethodPost, "pki/root/generate/internal", values{"common_name": "ca.test", "ttl": "24h"})
	v.call(t, http.MethodPost, "pki/roles/web", values{"allowed_domains": "test", "allow_subdomains": true, "max_ttl": "2h", "generate_lease": true})
	rules := []string{
		`path "kv/*" { capabilities = ["read"] }`, `path "pki/issue/web" { capabilities = ["update"] }`,
		`path "sys/leases/revoke" { capabilities = ["update"] }`,
	}
	v.policy(t, rules...)
	put := func(value string) {
		t.Helper()
		v.call(t, http.MethodPost, "kv/data/dapr/db", values{"data": values{"password": value}})
	}
	put("first")
	install(t, defaults().
		with("tokenRequests", []values{{"audience": "", "expirationSeconds": 3600}, {"audience": "vault", "expirationSeconds": 3600}}).
		with("stores", []values{v.store("kv", "kv"), v.store("pki", "pki")}))

	p := pod{namespace: ns, name: "app", serviceAccount: "app", attributes: map[string]string{"store": "kv", "refreshInterval": "2s", "secrets": `[db,
		{store: pki, name: issue/web, path: tls, parameters: {common_name: app.test, ttl: 1h}, fields: {certificate: tls.crt, private_key: tls.key}}]`}}
	p.start(t)
	p.wantFile(t, "db/password", "first")
	serial := serialOf(t, p.exec(t, "cat", "/secrets/tls/tls.crt"))
	file := p.directory(t) + "/db/password"

	put("second")
	measured(t, "Vault: from a write to the file, refreshInterval 2s", "%s", seconds(waitFile(t, patience, file, "second")))

	t.Run("five pods of one service account", func(t *testing.T) {
		for i := range 5 {
			one := pod{namespace: ns, name: fmt.Sprint("app-", i), serviceAccount: "app", attributes: map[string]string{"store": "kv", "secrets": "db"}}
			one.start(t)
			one.wantFile(t, "db/password", "second")
		}
		if n := v.count(t, "auth/kubernetes/login"); n != 2 { // the two stores are two logins
			t.Errorf("Vault has seen %d logins", n)
		}
	})
	t.Run("a service account without a role", func(t *testing.T) {
		other := pod{namespace: ns, name: "other", serviceAccount: "other", attributes: map[string]string{"store": "kv", "secrets": "db"}}
		apply(t, other.manifest())
		wantWhy(t, failedMount(t, other), "log in by kubernetes")
	})

	issued := v.count(t, "pki/issue/web")
	onNode(t, "kill -9 $(pidof agent)")
	put("third")
	measured(t, "Vault: agent killed, until a change of that moment is in the file", "%s", seconds(waitFile(t, patience, file, "third")))
	if got := serialOf(t, p.exec(t, "cat", "/secrets/tls/tls.crt")); got != serial || v.count(t, "pki/issue/web") != issued {
		t.Errorf("the certificate was issued again after a restart: %s, before %s", got, serial)
	}

	v.policy(t, rules[1:]...)
	put("not for you")
	waitEvent(t, ns, "files are kept as they are")
	p.wantFile(t, "db/password", "third")
	v.policy(t, rules...)
	waitFile(t, patience, file, "not for you")

	t.Run("sealed", func(t *testing.T) {
		v.call(t, http.MethodPut, "sys/seal", nil)
		waitEvent(t, ns, "files may be out of date")
		p.wantFile(t, "db/password", "not for you")
		v.call(t, http.MethodPut, "sys/unseal", values{"key": v.Key})
		eventually(t, patience, func() error { return v.serves(t) })
		put("unsealed")
		waitFile(t, patience, file, "unsealed")
	})

	p.delete(t)
	eventually(t, patience, func() error {
		if at := v.call(t, http.MethodGet, "pki/cert/"+serial, nil)["revocation_time"]; fmt.Sprint(at) == "0" {
			return fmt.Errorf("the certificate of the pod that is gone is not revoked")
		}
		return nil
	})
}

// waitEvent waits until an event of the namespace says that.
func waitEvent(t *testing.T, namespace, text string) {
	t.Helper()
	eventually(t, patience, func() error {
		events := kubectl(t, "get", "events", "--namespace", namespace, "--output", `jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}`)
		if !strings.Contains(events, text) {
			return fmt.Errorf("no event says %q:\n%s", text, events)
		}
		return nil
	})
}

// serialOf returns a certificate's serial number as Vault writes it.
func serialOf(t *testing.T, text string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate in %q", text)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for _, b := range certificate.SerialNumber.Bytes() {
		pairs = append(pairs, fmt.Sprintf("%02x", b))
	}
	return strings.Join(pairs, ":")
}
