package gcp_test

import (
	"testing"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gcp"
	"github.com/keywell/keywell/pkg/providers/gcp/gcptest"
)

// TestMain hides what this machine knows of Google Cloud.
func TestMain(m *testing.M) {
	servertest.RunTrusting(m, map[string]string{"CLOUDSDK_CONFIG": "$HOME", "GOOGLE_APPLICATION_CREDENTIALS": "", "GCE_METADATA_HOST": "127.0.0.1:1"})
}

// admin is a service account with a key that may do everything.
const admin = "admin@my-project.iam.gserviceaccount.com"

func newServer(t testing.TB) (server *gcptest.Server, key string) {
	t.Helper()
	server = gcptest.NewServer(t)
	server.Allow(admin, "*", "*")
	return server, server.Key(t, admin)
}

// metadata of a store that reads from server as admin, and more.
func metadata(server *gcptest.Server, key string, more map[string]string) map[string]string {
	return storetest.With(map[string]string{
		"projectID": gcptest.Project, "endpoint": server.URL, "type": "service_account", "privateKeyID": "1", "privateKey": key,
		"clientEmail": admin, "tokenURI": server.Login + "/token",
	}, more)
}

// private is what no error may repeat of a token or Google.
var private = []string{"ya29", "may not exist", "invalid_grant"}

func open(t testing.TB, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, gcp.DriverDialing(loopback.Dialer(t)), cfg)
}

// newStore returns a server and a provider that reads from it as admin.
func newStore(t testing.TB, more map[string]string) (*gcptest.Server, providers.Provider) {
	t.Helper()
	server, key := newServer(t)
	return server, open(t, storetest.Config(metadata(server, key, more)))
}

func want(t testing.TB, p providers.Provider, q providers.Query, value string) providers.Payload {
	t.Helper()
	return storetest.Want(t, p, q, value)
}

func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	storetest.WantKind(t, p, q, kind, text, private...)
}

// as returns a query by a pod of a service account in namespace shop.
func as(server *gcptest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, gcptest.Audience)
}
