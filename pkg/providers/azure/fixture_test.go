package azure_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/azure"
	"github.com/keywell/keywell/pkg/providers/azure/azuretest"
	"github.com/keywell/keywell/pkg/secret"
)

// TestMain makes the fake's certificate one that is trusted, before anyone asks which are.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "azure")
	if err != nil {
		panic(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		panic(err)
	}
	server.Close()
	for name, value := range map[string]string{
		"SSL_CERT_FILE": roots, "SSL_CERT_DIR": dir, "AZURE_TENANT_ID": "", "AZURE_CLIENT_ID": "", "AZURE_FEDERATED_TOKEN_FILE": "",
		"IDENTITY_ENDPOINT": "", "MSI_ENDPOINT": "", "PATH": "/nonexistent", // no az
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Credentials of an application that may do everything.
const (
	admin       = "00000000-0000-0000-0000-00000000ad01"
	adminSecret = "s3cr3t-of-admin"
)

func newServer(t testing.TB) *azuretest.Server {
	t.Helper()
	server := azuretest.NewServer(t)
	server.App(admin, adminSecret)
	server.Allow(admin, "*/*", "*")
	return server
}

// metadata of a store that reads from server, and more.
func metadata(server *azuretest.Server, more map[string]string) map[string]string {
	all := map[string]string{
		"vaultURL": server.URL, "azureAuthorityHost": server.URL, "azureTenantId": azuretest.Tenant,
		"azureClientId": admin, "azureClientSecret": adminSecret,
	}
	for name, value := range more {
		all[name] = value
	}
	return all
}

// dialer reaches this machine alone; the address of managed identities is the fake's.
func dialer(t testing.TB, server *azuretest.Server) func(context.Context, string, string) (net.Conn, error) {
	dial := loopback.Dialer(t)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "169.254.169.254:80" {
			address = server.Identity
		}
		return dial(ctx, network, address)
	}
}

// config is what a manifest with the metadata gives. The name identity is handled as package stores does.
func config(metadata map[string]string) providers.Config {
	cfg := providers.Config{
		Name: "azure", Logger: slog.New(slog.DiscardHandler), Identity: providers.AsAgent, Properties: providers.Properties{},
	}
	for name, value := range metadata {
		if name == "identity" {
			cfg.Identity = providers.Identity(value)
		} else {
			cfg.Properties[strings.ToLower(name)] = secret.FromString(value)
		}
	}
	return cfg
}

func open(t testing.TB, server *azuretest.Server, cfg providers.Config) providers.Provider {
	t.Helper()
	p, err := azure.DriverDialing(dialer(t, server)).Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func vault(t testing.TB, server *azuretest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, server, config(metadata(server, more)))
}

func fetch(t testing.TB, p providers.Provider, q providers.Query) (map[string]string, providers.Payload, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	payload, err := p.Fetch(ctx, q)
	plain := map[string]string{}
	for name, v := range payload.Fields {
		plain[name] = string(v.Reveal())
	}
	return plain, payload, err
}

// want fails unless q yields one field, named as the secret, with the value.
func want(t testing.TB, p providers.Provider, q providers.Query, value string) providers.Payload {
	t.Helper()
	got, payload, err := fetch(t, p, q)
	if err != nil || len(got) != 1 || got[q.Name] != value {
		t.Errorf("%s: got %v, %v; want %s", q.Name, got, err, value)
	}
	return payload
}

// wantKind fails unless q fails with the kind, without a word of the secret, of a token or of Azure.
func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	_, _, err := fetch(t, p, q)
	if err == nil || providers.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v of kind %v, want %v with %q", q.Name, err, providers.KindOf(err), kind, text)
	}
	for _, private := range []string{"c4n4ry", "eyJ", "s3cr3t", "does not have", "AADSTS700213: ", "error_description", "token-"} {
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), private) {
			t.Errorf("the error repeats %q: %v", private, err)
		}
	}
}

// accounts is the annotations of service accounts: "namespace/name" → client id.
type accounts map[string]string

func (a accounts) Annotations(_ context.Context, namespace, name string) (map[string]string, error) {
	return map[string]string{"azure.workload.identity/client-id": a[namespace+"/"+name]}, nil
}

// as returns a query by a pod of a service account in namespace shop.
func as(server *azuretest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, "api://AzureADTokenExchange")
}

func subject(account string) string { return issuertest.Subject("shop", account) }
