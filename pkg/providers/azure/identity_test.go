package azure_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/azure/azuretest"
)

const (
	clientAlice = "00000000-0000-0000-0000-0000000a11ce"
	clientBob   = "00000000-0000-0000-0000-000000000b0b"
)

// TestMethods logs in by each method, and by the default chain.
func TestMethods(t *testing.T) {
	server := newServer(t)
	server.Put("db", azuretest.Secret{Value: "c4n4ry"})
	none := map[string]string{"azureClientId": "", "azureClientSecret": "", "azureTenantId": ""}
	with := func(more map[string]string) map[string]string {
		return storetest.With(none, more)
	}
	certificate, file := certificateFile(t)
	// The SDK caches tokens of managed identities for the whole process, so each run has an identity of its own.
	clientNode := fmt.Sprintf("00000000-0000-0000-0000-%012x", time.Now().UnixNano()&0xffffffffffff)
	server.AppWithCertificate(clientBob, certificate)
	server.AppTrusting(clientAlice, storetest.Subject("agent"))
	for _, client := range []string{clientAlice, clientBob, clientNode} {
		server.Allow(client, "secrets/get", "db")
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(server.Issuer.Token(storetest.Subject("agent"), audience, time.Now().Add(time.Hour))), 0o600); err != nil {
		t.Fatal(err)
	}
	inline, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]map[string]string{
		"client secret":      nil,
		"spn aliases":        with(map[string]string{"spnTenantId": azuretest.Tenant, "spnClientId": admin, "spnClientSecret": adminSecret}),
		"short aliases":      with(map[string]string{"tenantId": azuretest.Tenant, "CLIENTID": admin, "clientSecret": adminSecret}),
		"certificate's file": with(map[string]string{"azureTenantId": azuretest.Tenant, "azureClientId": clientBob, "spnCertificateFile": file}),
		"certificate":        with(map[string]string{"azureTenantId": azuretest.Tenant, "azureClientId": clientBob, "azureCertificate": string(inline), "azureAuthMethods": "cert"}),
		"workload identity":  with(map[string]string{"entraIDAuthMethods": "wi"}),
		"default chain":      none,
	} {
		t.Run(name, func(t *testing.T) {
			if name == "workload identity" || name == "default chain" {
				t.Setenv("AZURE_TENANT_ID", azuretest.Tenant)
				t.Setenv("AZURE_CLIENT_ID", clientAlice)
				t.Setenv("AZURE_FEDERATED_TOKEN_FILE", token)
			}
			want(t, vault(t, server, m), providers.Query{Name: "db"}, "c4n4ry")
		})
	}
	t.Run("managed identity", func(t *testing.T) {
		server.NodeIdentity(clientNode)
		p := vault(t, server, with(map[string]string{"azureClientId": clientNode, "azureAuthMethods": "mi"}))
		for range 2 {
			want(t, p, providers.Query{Name: "db"}, "c4n4ry")
		}
		if n := len(server.Calls("managedidentity")); n != 1 {
			t.Errorf("the node's identity was asked for %d times", n)
		}
	})
	wantKind(t, vault(t, server, map[string]string{"azureClientSecret": "s3cr3t-of-nobody", "azureAuthMethods": "creds"}),
		providers.Query{Name: "db"}, providers.Denied, "AADSTS700213")
}

// TestTokenForTheVaultOnly: a vault that asks for a token for something else gets none for that.
func TestTokenForTheVaultOnly(t *testing.T) {
	server := newServer(t)
	server.Challenge("https://management.azure.com")
	server.Put("db", azuretest.Secret{Value: "c4n4ry"})
	p := vault(t, server, nil)
	for range 3 {
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	}
	calls := server.Calls("token")
	if len(calls) != 1 {
		t.Errorf("%d logins for three reads", len(calls))
	}
	for _, c := range calls {
		if !strings.HasPrefix(c.Name, azuretest.Resource) {
			t.Errorf("a token was asked for with scope %s", c.Name)
		}
	}
}

// newPods returns a fake in which alice and bob have an identity each, which may read one secret.
func newPods(t *testing.T) (*azuretest.Server, storetest.Accounts) {
	t.Helper()
	server := newServer(t)
	accounts := storetest.Accounts{}
	for account, client := range map[string]string{"alice": clientAlice, "bob": clientBob} {
		accounts["shop/"+account] = map[string]string{"azure.workload.identity/client-id": client}
		server.AppTrusting(client, storetest.Subject(account))
		server.Allow(client, "secrets/get", "of-"+account)
		server.Put("of-"+account, azuretest.Secret{Value: "c4n4ry-" + account})
	}
	return server, accounts
}

func openAsPod(t *testing.T, server *azuretest.Server, accounts providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	cfg := storetest.Config(storetest.With(map[string]string{
		"vaultURL": server.URL, "azureAuthorityHost": server.URL, "azureTenantId": azuretest.Tenant, "identity": "pod",
	}, more))
	cfg.ServiceAccounts = accounts
	return open(t, server, cfg)
}

func TestPods(t *testing.T) {
	storetest.RunPods(t, func(t *testing.T) storetest.Pods {
		server, accounts := newPods(t)
		return storetest.Pods{
			Provider: openAsPod(t, server, accounts, nil), Issuer: server.Issuer, Audience: audience,
			Denied:    "Forbidden",
			Exchanges: func() int { return len(server.Calls("token")) },
			Reads:     func() int { return len(server.Calls("secrets/get")) },
			Revoke:    server.Revoke, Revoked: providers.Denied, Says: "does not accept the token",
			Faults: map[providers.Kind]func(){
				providers.Throttled:   func() { failLogins(server, servertest.Fault{Status: http.StatusTooManyRequests}) },
				providers.Unavailable: func() { failLogins(server, servertest.Fault{Status: http.StatusServiceUnavailable}) },
			},
		}
	})
}

func failLogins(server *azuretest.Server, f servertest.Fault) {
	server.Fail(func(c servertest.Call) *servertest.Fault {
		if c.Action == "token" {
			return &f
		}
		return nil
	})
}

func TestIdentities(t *testing.T) {
	server, accounts := newPods(t)
	manifest := map[string]string{"azureClientId": clientAlice}
	want(t, openAsPod(t, server, nil, manifest), as(server, "alice", "of-alice"), "c4n4ry-alice")
	want(t, openAsPod(t, server, accounts, manifest), as(server, "bob", "of-bob"), "c4n4ry-bob")
	wantKind(t, openAsPod(t, server, nil, manifest), as(server, "bob", "of-bob"), providers.Denied, "AADSTS700213")
	wantKind(t, openAsPod(t, server, storetest.Accounts{}, nil), as(server, "bob", "of-bob"), providers.Denied, "annotate it")
	wantKind(t, openAsPod(t, server, nil, nil), as(server, "bob", "of-bob"), providers.Denied, "azureClientId")
	wantKind(t, openAsPod(t, server, accounts, map[string]string{"azureTenantId": ""}), as(server, "bob", "of-bob"), providers.Denied, "azureTenantId")
}

// issue makes a certificate for a key; without a parent it is its own.
func issue(t *testing.T, serial int64, cn string, key, signer crypto.Signer, parent *x509.Certificate) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour), IsCA: serial < 3, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// chain makes a certificate with its issuers.
func chain(t *testing.T) (leaf, intermediate, root *x509.Certificate, key crypto.Signer) {
	t.Helper()
	var keys [3]*rsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	root = issue(t, 1, "root", keys[0], keys[0], nil)
	intermediate = issue(t, 2, "intermediate", keys[1], keys[0], root)
	leaf = issue(t, 3, "leaf", keys[2], keys[1], intermediate)
	return leaf, intermediate, root, keys[2]
}

// certificateFile writes a certificate with its key and returns both.
func certificateFile(t *testing.T) (*x509.Certificate, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := issue(t, 3, "agent", key, key, nil)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "agent.pem")
	data := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return c, file
}
