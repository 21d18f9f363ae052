package gcp_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gcp"
	"github.com/keywell/keywell/pkg/providers/gcp/gcptest"
	"github.com/keywell/keywell/pkg/secret"
)

// TestMain makes the fake's certificate one that is trusted, before anyone asks which are, and hides what this machine
// knows of Google Cloud.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gcp")
	if err != nil {
		panic(err)
	}
	server := httptest.NewTLSServer(nil)
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		panic(err)
	}
	server.Close()
	for name, value := range map[string]string{
		"SSL_CERT_FILE": roots, "SSL_CERT_DIR": dir, "HOME": dir, "CLOUDSDK_CONFIG": dir, "GOOGLE_APPLICATION_CREDENTIALS": "",
		"GCE_METADATA_HOST": "127.0.0.1:1",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
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
	all := map[string]string{
		"projectID": gcptest.Project, "endpoint": server.URL, "type": "service_account", "privateKeyID": "1", "privateKey": key,
		"clientEmail": admin, "tokenURI": server.Login + "/token",
	}
	for name, value := range more {
		all[name] = value
	}
	return all
}

// config is what a manifest with the metadata gives. The name identity is handled as package stores does.
func config(metadata map[string]string) providers.Config {
	cfg := providers.Config{
		Name: "gcp", Logger: slog.New(slog.DiscardHandler), Identity: providers.AsAgent, Properties: providers.Properties{},
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

func open(t testing.TB, cfg providers.Config) providers.Provider {
	t.Helper()
	p, err := gcp.DriverDialing(loopback.Dialer(t)).Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// newStore returns a server and a provider that reads from it as admin.
func newStore(t testing.TB, more map[string]string) (*gcptest.Server, providers.Provider) {
	t.Helper()
	server, key := newServer(t)
	return server, open(t, config(metadata(server, key, more)))
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

// wantKind fails unless q fails with the kind, without a word of the secret, of a token or of Google.
func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	_, _, err := fetch(t, p, q)
	if err == nil || providers.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v of kind %v, want %v with %q", q.Name, err, providers.KindOf(err), kind, text)
	}
	for _, private := range []string{"c4n4ry", "eyJ", "ya29", "may not exist", "invalid_grant"} {
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), private) {
			t.Errorf("the error repeats %q: %v", private, err)
		}
	}
}

// accounts is the annotations of service accounts: "namespace/name" → email.
type accounts map[string]string

func (a accounts) Annotations(_ context.Context, namespace, name string) (map[string]string, error) {
	return map[string]string{"iam.gke.io/gcp-service-account": a[namespace+"/"+name]}, nil
}

// as returns a query by a pod of a service account in namespace shop.
func as(server *gcptest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, gcptest.Audience)
}

func subject(account string) string { return issuertest.Subject("shop", account) }
