package azure_test

import (
	"testing"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/azure"
	"github.com/keywell/keywell/pkg/providers/azure/azuretest"
)

// TestMain hides what this machine knows of Azure.
func TestMain(m *testing.M) {
	servertest.RunTrusting(m, map[string]string{
		"AZURE_TENANT_ID": "", "AZURE_CLIENT_ID": "", "AZURE_FEDERATED_TOKEN_FILE": "",
		"IDENTITY_ENDPOINT": "", "MSI_ENDPOINT": "", "PATH": "/nonexistent", // no az
	})
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
	return storetest.With(map[string]string{
		"vaultURL": server.URL, "azureAuthorityHost": server.URL, "azureTenantId": azuretest.Tenant,
		"azureClientId": admin, "azureClientSecret": adminSecret,
	}, more)
}

// private is what no error may repeat of a secret, a token or Azure.
var private = []string{"s3cr3t", "does not have", "AADSTS700213: ", "error_description", "token-"}

func open(t testing.TB, server *azuretest.Server, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, azure.DriverDialing(loopback.Instead(t, "169.254.169.254:80", server.Identity)), cfg)
}

func vault(t testing.TB, server *azuretest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, server, storetest.Config(metadata(server, more)))
}

func want(t testing.TB, p providers.Provider, q providers.Query, value string) providers.Payload {
	t.Helper()
	return storetest.Want(t, p, q, value)
}

func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	storetest.WantKind(t, p, q, kind, text, private...)
}

const audience = "api://AzureADTokenExchange"

// as returns a query by a pod of a service account in namespace shop.
func as(server *azuretest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, audience)
}
