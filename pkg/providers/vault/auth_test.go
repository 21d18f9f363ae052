package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

// authKV is an engine with one secret, without a token in its pairs.
func authKV(t *testing.T) *kv {
	t.Helper()
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	delete(k.pairs, "vaultToken")
	return k
}

// count returns how many requests since the last call contain text.
func (k *kv) count(text string) int {
	n := 0
	for _, seen := range k.Seen() {
		if strings.Contains(seen, text) {
			n++
		}
	}
	return n
}

// jwt sets up JWT auth with a role for one service account, "reader" of namespace "shop", and returns its properties.
func (k *kv) jwt(t *testing.T, issuer *vaulttest.Issuer, role map[string]any) map[string]string {
	t.Helper()
	mount := k.Auth(t, "jwt")
	k.Server.Put(t, "auth/"+mount+"/config", map[string]any{"jwt_validation_pubkeys": issuer.PublicKey(t)})
	settings := map[string]any{
		"role_type": "jwt", "bound_audiences": "vault", "user_claim": "sub", "token_policies": k.policy,
		"bound_subject": "system:serviceaccount:shop:reader",
	}
	for name, value := range role {
		settings[name] = value
	}
	k.Server.Put(t, "auth/"+mount+"/role/app", settings)
	return merged(k.pairs, map[string]string{"vaultAuthMethod": "jwt", "vaultAuthMountPath": mount, "vaultAuthRole": "app"})
}

func (k *kv) approle(t *testing.T, role map[string]any) (pairs map[string]string, roleName string) {
	t.Helper()
	mount := k.Auth(t, "approle")
	settings := map[string]any{"token_policies": k.policy}
	for name, value := range role {
		settings[name] = value
	}
	roleName = "auth/" + mount + "/role/app"
	k.Server.Put(t, roleName, settings)
	id, err := k.Logical().Read(roleName + "/role-id")
	if err != nil {
		t.Fatal(err)
	}
	pairs = merged(k.pairs, map[string]string{
		"vaultAuthMethod": "approle", "vaultAuthMountPath": mount, "vaultRoleID": id.Data["role_id"].(string),
	})
	if role["bind_secret_id"] != false {
		pairs["vaultSecretID"] = k.Server.Put(t, roleName+"/secret-id", nil).Data["secret_id"].(string)
	}
	return pairs, roleName
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMethods reads with each method, as the agent: one login for all reads.
func TestMethods(t *testing.T) {
	issuer := vaulttest.NewIssuer(t)
	methods := map[string]func(t *testing.T, k *kv) map[string]string{
		"kubernetes": func(t *testing.T, k *kv) map[string]string {
			mount := k.Auth(t, "kubernetes")
			host, ca := issuer.Reviewer(t)
			k.Server.Put(t, "auth/"+mount+"/config", map[string]any{
				"kubernetes_host": host, "kubernetes_ca_cert": ca, "token_reviewer_jwt": issuer.JWT(t, "kube", "vault", "api"), "disable_local_ca_jwt": true,
			})
			k.Server.Put(t, "auth/"+mount+"/role/app", map[string]any{
				"bound_service_account_names": "agent", "bound_service_account_namespaces": "keywell", "token_policies": k.policy, "audience": "vault",
			})
			return merged(k.pairs, map[string]string{
				"vaultAuthMethod": "kubernetes", "vaultAuthMountPath": mount, "vaultAuthRole": "app",
				"vaultJWTPath": writeFile(t, issuer.JWT(t, "keywell", "agent", "vault")),
			})
		},
		"jwt": func(t *testing.T, k *kv) map[string]string {
			return merged(k.jwt(t, issuer, nil), map[string]string{"vaultJWTPath": writeFile(t, issuer.JWT(t, "shop", "reader", "vault")+"\n")})
		},
		"approle": func(t *testing.T, k *kv) map[string]string {
			pairs, _ := k.approle(t, nil)
			return pairs
		},
		"approle from a file": func(t *testing.T, k *kv) map[string]string {
			pairs, _ := k.approle(t, nil)
			return merged(pairs, map[string]string{"vaultSecretID": "", "vaultSecretIDPath": writeFile(t, pairs["vaultSecretID"])})
		},
		"approle without a secret id": func(t *testing.T, k *kv) map[string]string {
			pairs, _ := k.approle(t, map[string]any{"bind_secret_id": false, "token_bound_cidrs": "127.0.0.0/8"})
			return pairs
		},
		"userpass": func(t *testing.T, k *kv) map[string]string {
			mount := k.Auth(t, "userpass")
			k.Server.Put(t, "auth/"+mount+"/users/ann", map[string]any{"password": "c4n4ry", "token_policies": k.policy})
			return merged(k.pairs, map[string]string{
				"vaultAuthMethod": "userpass", "vaultAuthMountPath": "auth/" + mount, "vaultUsername": "ann", "vaultPassword": "c4n4ry",
			})
		},
	}
	for name, prepare := range methods {
		t.Run(name, func(t *testing.T) {
			k := authKV(t)
			pairs := prepare(t, k)
			p := open(t, pairs)
			for range 3 {
				fetch(t, p, providers.Query{Name: "db"})
			}
			if n := k.count("/login"); n != 1 {
				t.Errorf("%d logins", n)
			}
		})
	}
}

// TestCertificateMethod goes to Vault itself: a proxy would have to pass the certificate on.
func TestCertificateMethod(t *testing.T) {
	k := authKV(t)
	certificate, key := clientCertificate(t)
	mount := k.Auth(t, "cert")
	k.Server.Put(t, "auth/"+mount+"/certs/node", map[string]any{"certificate": certificate, "token_policies": k.policy})
	pairs := merged(k.pairs, map[string]string{
		"vaultAddr": k.Server.Addr, "caPem": k.Server.CA, "vaultAuthMethod": "cert", "vaultAuthMountPath": mount,
		"tlsClientCertPath": writeFile(t, certificate), "tlsClientKeyPath": writeFile(t, key),
	})
	fetch(t, open(t, pairs), providers.Query{Name: "db"})
	fetch(t, open(t, merged(pairs, map[string]string{"vaultAuthRole": "node"})), providers.Query{Name: "db"})
	wantKind(t, open(t, merged(pairs, map[string]string{"vaultAuthRole": "other"})), providers.Query{Name: "db"}, providers.Denied, "log in by cert")
}

func clientCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// asPod is a read on behalf of a pod.
func asPod(t *testing.T, issuer *vaulttest.Issuer, namespace, account, pod string) providers.Query {
	return providers.Query{
		Name: "db", Tokens: vaulttest.Tokens{T: t, Issuer: issuer, Namespace: namespace, Account: account},
		Caller: providers.Caller{Namespace: namespace, ServiceAccount: account, Pod: pod},
	}
}

// TestPodsShareALogin: a hundred pods of one service account log in once, and nobody reads with another's rights.
func TestPodsShareALogin(t *testing.T) {
	k := authKV(t)
	issuer := vaulttest.NewIssuer(t)
	p := openAs(t, providers.AsPod, k.jwt(t, issuer, nil))
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := p.Fetch(t.Context(), asPod(t, issuer, "shop", "reader", fmt.Sprint("pod-", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := k.count("/login"); n != 1 {
		t.Errorf("100 pods made %d logins", n)
	}
	wantKind(t, p, asPod(t, issuer, "shop", "other", "pod-1"), providers.Denied, "log in by jwt")
	wantKind(t, p, asPod(t, vaulttest.NewIssuer(t), "bank", "reader", "pod-1"), providers.Denied, "log in by jwt")
	wantKind(t, p, providers.Query{Name: "db"}, providers.Invalid, "brings none")
}

func TestAudience(t *testing.T) {
	k := authKV(t)
	issuer := vaulttest.NewIssuer(t)
	pairs := k.jwt(t, issuer, map[string]any{"bound_audiences": "another"})
	wantKind(t, openAs(t, providers.AsPod, pairs), asPod(t, issuer, "shop", "reader", "p"), providers.Denied, "log in by jwt")
	fetch(t, openAs(t, providers.AsPod, merged(pairs, map[string]string{"vaultAuthAudience": "another"})), asPod(t, issuer, "shop", "reader", "p"))
}

// eventually calls done until it is true, at most for as long as something on a real server may take.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: %s", what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// TestTokenIsRenewed: a token that lives 3 seconds is used for longer, without another login.
func TestTokenIsRenewed(t *testing.T) {
	k := authKV(t)
	pairs, _ := k.approle(t, map[string]any{"token_ttl": "3s", "token_max_ttl": "1h"})
	p := open(t, pairs)
	begun, renewals := time.Now(), 0
	eventually(t, "two renewals", func() bool {
		fetch(t, p, providers.Query{Name: "db"})
		for _, seen := range k.Seen() {
			if strings.Contains(seen, "/login") && time.Since(begun) > time.Second {
				t.Error("logged in again")
			}
			if strings.Contains(seen, "/renew-self") {
				renewals++
			}
		}
		return renewals >= 2 && time.Since(begun) > 4*time.Second
	})
	if renewals > 4 {
		t.Errorf("%d renewals in %v", renewals, time.Since(begun))
	}
}

// TestLongestLife: a token that can't live longer is followed by another before it ends.
func TestLongestLife(t *testing.T) {
	k := authKV(t)
	pairs, _ := k.approle(t, map[string]any{"token_ttl": "2s", "token_max_ttl": "3s"})
	p := open(t, pairs)
	begun, logins := time.Now(), 0
	for time.Since(begun) < 7*time.Second {
		fetch(t, p, providers.Query{Name: "db"}) // never refused
		logins += k.count("/login")
		<-time.After(50 * time.Millisecond)
	}
	if logins < 2 || logins > 6 {
		t.Errorf("%d logins in 7 s", logins)
	}
}

// TestRevokedToken: a token that Vault does not know any more is replaced; a read that is denied costs no login.
func TestRevokedToken(t *testing.T) {
	k := authKV(t)
	pairs, _ := k.approle(t, nil)
	p := open(t, pairs)
	fetch(t, p, providers.Query{Name: "db"})
	if err := k.Sys().RevokePrefix("auth/" + pairs["vaultAuthMountPath"]); err != nil {
		t.Fatal(err)
	}
	k.Seen()
	eventually(t, "read again", func() bool {
		_, err := p.Fetch(t.Context(), providers.Query{Name: "db"})
		return err == nil
	})
	if n := k.count("/login"); n != 1 {
		t.Errorf("%d logins after the token was revoked", n)
	}
	k.PutPolicy(t, k.policy, "nothing", "read")
	for range 3 {
		wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "")
	}
	if n := k.count("/login"); n != 0 {
		t.Errorf("%d logins because a read was denied", n)
	}
}

func TestWrappedSecretID(t *testing.T) {
	k := authKV(t)
	pairs, role := k.approle(t, nil)
	wrapped := func() string {
		client, err := k.Server.Clone()
		if err != nil {
			t.Fatal(err)
		}
		client.SetToken(k.Server.Token)
		client.SetWrappingLookupFunc(func(string, string) string { return "1h" })
		s, err := client.Logical().Write(role+"/secret-id", nil)
		if err != nil {
			t.Fatal(err)
		}
		return s.WrapInfo.Token
	}
	token := wrapped()
	path := writeFile(t, token)
	pairs = merged(pairs, map[string]string{"vaultSecretID": "", "vaultSecretIDPath": path, "vaultSecretIDWrapped": "true"})
	p := open(t, pairs)
	fetch(t, p, providers.Query{Name: "db"})
	if err := k.Sys().RevokePrefix("auth/" + pairs["vaultAuthMountPath"]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "log in with the same secret id", func() bool {
		_, err := p.Fetch(t.Context(), providers.Query{Name: "db"})
		return err == nil
	})
	if n := k.count("/unwrap"); n != 1 {
		t.Errorf("unwrapped %d times", n)
	}
	second := open(t, pairs)
	wantKind(t, second, providers.Query{Name: "db"}, providers.Denied, "was it unwrapped before")
	if err := os.WriteFile(path, []byte(wrapped()), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "log in with a new wrapped secret id", func() bool {
		_, err := second.Fetch(t.Context(), providers.Query{Name: "db"})
		return err == nil
	})
}

// TestNamespace: every request carries the namespace. The proxy keeps it from Vault, of which only Enterprise has any.
func TestNamespace(t *testing.T) {
	k := authKV(t)
	pairs, _ := k.approle(t, nil)
	var mu sync.Mutex
	var got []string
	k.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Header.Get(api.NamespaceHeaderName))
		r.Header.Del(api.NamespaceHeaderName)
		return false
	})
	fetch(t, open(t, merged(pairs, map[string]string{"vaultNamespace": "/team/eu/"})), providers.Query{Name: "db"})
	mu.Lock()
	defer mu.Unlock()
	if len(got) < 3 {
		t.Errorf("%d requests", len(got))
	}
	for _, namespace := range got {
		if namespace != "team/eu" {
			t.Errorf("a request for namespace %q", namespace)
		}
	}
}

// TestFailingLogins: the kinds of failure, and that a refusal is remembered: many readers don't make many logins.
func TestFailingLogins(t *testing.T) {
	k := authKV(t)
	pairs, _ := k.approle(t, nil)
	p := open(t, merged(pairs, map[string]string{"vaultSecretID": "c4n4ry"}))
	for range 10 {
		wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "log in by approle")
	}
	if n := k.count("/login"); n != 1 {
		t.Errorf("%d logins", n)
	}
	k.Break(answer("/login", http.StatusServiceUnavailable))
	wantKind(t, open(t, pairs), providers.Query{Name: "db"}, providers.Unavailable, "log in by approle")
	k.Break(answer("/login", http.StatusTooManyRequests, "Retry-After", "3"))
	wantKind(t, open(t, pairs), providers.Query{Name: "db"}, providers.Throttled, "log in by approle")
	k.Break(nil)
	wantKind(t, open(t, merged(pairs, map[string]string{"vaultAuthMountPath": "nowhere"})), providers.Query{Name: "db"}, providers.Denied, "log in by approle")
}
