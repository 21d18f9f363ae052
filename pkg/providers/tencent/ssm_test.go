package tencent_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/providers/tencent"
	"github.com/keywell/keywell/pkg/providers/tencent/tencenttest"
)

const (
	id    = "AKIDEXAMPLE"
	key   = "k3y-of-tencent"
	token = "t0ken"
)

// config is that of a store that reads from server with the keys, and more.
func config(server *tencenttest.Server, more map[string]string) providers.Config {
	return storetest.Config(storetest.With(map[string]string{
		"secretId": id, "secretKey": key, "token": token, "region": "ap-guangzhou", "endpoint": server.URL,
	}, more))
}

func open(t *testing.T, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, tencent.DriverDialing(loopback.Dialer(t)), cfg)
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := tencenttest.NewServer(t, id, key, token)
			cfg := config(server, nil)
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, cfg),
				Put: func(name string, fields map[string]string) string {
					return server.Put(name, fields[name], !utf8.ValidString(fields[name]))
				},
				Delete: server.Delete,
				Faults: faults(server),
				Hang:   func() { server.Fail(func(servertest.Call) *servertest.Fault { return &servertest.Fault{Hang: true} }) },
			}
		},
		Binary:         true,
		Lists:          true,
		PageSize:       100,
		MaxValue:       4 << 10,
		UnknownVersion: "v1000",
	})
}

func faults(server *tencenttest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, code := range map[providers.Kind]string{
		providers.NotFound: "ResourceUnavailable.ResourceDisabled", providers.Denied: "UnauthorizedOperation", providers.Invalid: "InvalidParameterValue",
		providers.Unavailable: "InternalError", providers.Throttled: "RequestLimitExceeded",
	} {
		all[kind] = func(name string) { server.FailName(name, servertest.Fault{Code: code}) }
	}
	return all
}

func TestVersionID(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	p := open(t, config(server, nil))
	first := server.Put("db", "c4n4ry-1", false)
	server.Put("db", "c4n4ry-2", false)
	for name, tt := range map[string]struct {
		q    providers.Query
		want string
	}{
		"in use":        {providers.Query{Name: "db"}, "c4n4ry-2"},
		"Dapr's key":    {providers.Query{Name: "db", Metadata: map[string]string{"VersionID": first}}, "c4n4ry-1"},
		"ours is first": {providers.Query{Name: "db", Version: "v2.0", Metadata: map[string]string{"VersionID": first}}, "c4n4ry-2"},
	} {
		got, err := p.Fetch(t.Context(), tt.q)
		if err != nil || len(got.Fields) != 1 || string(got.Fields["db"].Reveal()) != tt.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestCalls: a read is one call, and a listing one for each page.
func TestCalls(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	p := open(t, config(server, nil))
	for i := range 120 {
		server.Put(fmt.Sprint("secret-", i), "c4n4ry", false)
	}
	storetest.Want(t, p, providers.Query{Name: "secret-7"}, "c4n4ry")
	names, err := p.(providers.Lister).List(t.Context(), providers.Query{})
	if n, m := len(server.Calls("GetSecretValue")), len(server.Calls("ListSecrets")); err != nil || len(names) != 120 || n != 1 || m != 2 {
		t.Errorf("%d names with %d and %d calls, %v", len(names), n, m, err)
	}
}

// TestClockSkew: a clock that is wrong is no denial.
func TestClockSkew(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry", false)
	server.Skew(time.Hour)
	storetest.WantKind(t, open(t, config(server, nil)), providers.Query{Name: "db"}, providers.Unavailable, "compare the node's clock")
}

func TestErrors(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry", false)
	server.Put("half", "c4n4ry", false)
	server.Put("down", "c4n4ry", false)
	server.Fail(func(c servertest.Call) *servertest.Fault {
		return map[string]*servertest.Fault{"half": {}, "down": {Status: 502}}[c.Name]
	})
	for name, tt := range map[string]struct {
		secret string
		more   map[string]string
		kind   providers.Kind
		text   string
	}{
		"wrong key":   {"db", map[string]string{"secretKey": "other"}, providers.Denied, "AuthFailure.SignatureFailure"},
		"no token":    {"db", map[string]string{"token": ""}, providers.Denied, "AuthFailure.TokenFailure"},
		"half a body": {"half", nil, providers.Unavailable, ""},
		"502":         {"down", nil, providers.Unavailable, "ClientError"},
		"nobody":      {"db", map[string]string{"endpoint": "http://127.0.0.1:1"}, providers.Unavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.WantKind(t, open(t, config(server, tt.more)), providers.Query{Name: tt.secret}, tt.kind, tt.text, key)
		})
	}
	if _, err := tencent.Driver().Open(t.Context(), config(server, map[string]string{"endpoint": "x"})); providers.KindOf(err) != providers.Invalid {
		t.Errorf("endpoint that is no URL: %v", err)
	}
}
