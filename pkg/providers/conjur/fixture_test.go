package conjur_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/conjur"
	"github.com/keywell/keywell/pkg/providers/conjur/conjurtest"
)

// agent is a host that may read everything.
const agent = "host/apps/keywell agent"

func newServer(t testing.TB) *conjurtest.Server {
	t.Helper()
	return withAgent(conjurtest.NewServer(t))
}

func withAgent(server *conjurtest.Server) *conjurtest.Server {
	server.Member("readers", agent)
	server.Permit("readers", "*", "read", "execute")
	return server
}

// metadata of a store that reads from server as the agent by its API key, and more; an empty value takes a name away.
func metadata(server *conjurtest.Server, more map[string]string) map[string]string {
	return storetest.With(map[string]string{
		"applianceUrl": server.URL, "account": conjurtest.Account, "login": agent, "apiKey": server.Host(agent), "caCert": server.CA,
	}, more)
}

// config is what a manifest with the metadata gives.
func config(metadata map[string]string) providers.Config { return storetest.Config(metadata) }

func open(t testing.TB, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, conjur.DriverDialing(loopback.Dialer(t)), cfg)
}

// newStore returns a server and a provider that reads from it as the agent.
func newStore(t testing.TB, more map[string]string) (*conjurtest.Server, providers.Provider) {
	t.Helper()
	server := newServer(t)
	return server, open(t, config(metadata(server, more)))
}

func want(t testing.TB, p providers.Provider, q providers.Query, value string) {
	t.Helper()
	storetest.Want(t, p, q, value)
}

// wantKind fails unless q fails with the kind, without a word of a secret, a token, a key or of Conjur.
func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	storetest.WantKind(t, p, q, kind, text, "4p1k3y", "CONJ0")
}

// failing returns a fault of all calls with an action.
func failing(action string, f servertest.Fault) func(servertest.Call) *servertest.Fault {
	return func(c servertest.Call) *servertest.Fault {
		if c.Action == action {
			return &f
		}
		return nil
	}
}

// as returns a query by a pod of a service account in namespace shop.
func as(server *conjurtest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, conjurtest.Audience)
}

// otherCA returns a certificate, in PEM, that has signed nothing.
func otherCA(t testing.TB) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
