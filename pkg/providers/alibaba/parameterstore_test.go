package alibaba_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/alibaba"
	"github.com/keywell/keywell/pkg/providers/alibaba/alibabatest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

const (
	id    = "LTAIEXAMPLE"
	key   = "k3y-of-alibaba"
	token = "t0ken"
)

// config is that of a store that reads from server with the keys, and more.
func config(server *alibabatest.Server, more map[string]string) providers.Config {
	return storetest.Config(storetest.With(map[string]string{
		"regionId": "cn-hangzhou", "accessKeyId": id, "accessKeySecret": key, "securityToken": token, "endpoint": server.URL,
	}, more))
}

func open(t *testing.T, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, alibaba.DriverDialing(loopback.Dialer(t)), cfg)
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := alibabatest.NewServer(t, id, key, token)
			cfg := config(server, nil)
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, cfg),
				Put:      func(name string, fields map[string]string) string { return server.Put(name, fields[name]) },
				Delete:   server.Delete,
				Faults:   faults(server),
				Hang:     func() { server.Fail(func(servertest.Call) *servertest.Fault { return &servertest.Fault{Hang: true} }) },
			}
		},
		Lists:          true,
		PageSize:       50,
		MaxValue:       4 << 10,
		UnknownVersion: "1000",
	})
}

func faults(server *alibabatest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, f := range map[providers.Kind]servertest.Fault{
		providers.NotFound:    {Code: "EntityNotExists.Parameter", Status: 404},
		providers.Denied:      {Code: "Forbidden.RAM", Status: 403},
		providers.Invalid:     {Code: "InvalidParameter", Status: 400},
		providers.Unavailable: {Code: "InternalError", Status: 500},
		providers.Throttled:   {Code: "Throttling.User", Status: 400},
	} {
		all[kind] = func(name string) { server.FailName(name, f) }
	}
	return all
}

func TestPath(t *testing.T) {
	server := alibabatest.NewServer(t, id, key, token)
	p := open(t, config(server, nil))
	for _, name := range []string{"/prod/db", "/prod/api/key", "/dev/db"} {
		server.Put(name, "c4n4ry")
	}
	names, err := p.(providers.Lister).List(t.Context(), providers.Query{Metadata: map[string]string{"path": "/prod/"}})
	if err != nil || !slices.Equal(names, []string{"/prod/api/key", "/prod/db"}) {
		t.Errorf("names %v, %v", names, err)
	}
	got, err := p.Fetch(t.Context(), providers.Query{Name: "/prod/db"})
	if err != nil || string(got.Fields["/prod/db"].Reveal()) != "c4n4ry" || got.Version != "1" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, version := range []string{"x", "0", "-1", "1&x=2"} {
		if _, err := p.Fetch(t.Context(), providers.Query{Name: "/prod/db", Version: version}); providers.KindOf(err) != providers.Invalid {
			t.Errorf("version %s: %v", version, err)
		}
	}
}

// TestCalls: a read is one call, and a listing one for each page.
func TestCalls(t *testing.T) {
	server := alibabatest.NewServer(t, id, key, token)
	p := open(t, config(server, nil))
	for i := range 120 {
		server.Put(fmt.Sprint("secret-", i), "c4n4ry")
	}
	storetest.Want(t, p, providers.Query{Name: "secret-7"}, "c4n4ry")
	names, err := p.(providers.Lister).List(t.Context(), providers.Query{})
	if n, m := len(server.Calls("GetSecretParameter")), len(server.Calls("GetSecretParametersByPath")); err != nil || len(names) != 120 || n != 1 || m != 3 {
		t.Errorf("%d names with %d and %d calls, %v", len(names), n, m, err)
	}
}

// TestClockSkew: a clock that is wrong is no denial.
func TestClockSkew(t *testing.T) {
	server := alibabatest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry")
	server.Skew(time.Hour)
	storetest.WantKind(t, open(t, config(server, nil)), providers.Query{Name: "db"}, providers.Unavailable, "compare the node's clock")
}

func TestErrors(t *testing.T) {
	server := alibabatest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry")
	server.Put("half", "c4n4ry")
	server.Fail(func(c servertest.Call) *servertest.Fault {
		return map[string]*servertest.Fault{"half": {}}[c.Name]
	})
	for name, tt := range map[string]struct {
		secret string
		more   map[string]string
		kind   providers.Kind
		text   string
	}{
		"wrong key":   {"db", map[string]string{"accessKeySecret": "other"}, providers.Denied, "SignatureDoesNotMatch"},
		"wrong id":    {"db", map[string]string{"accessKeyId": "other"}, providers.Denied, "InvalidAccessKeyId.NotFound"},
		"no token":    {"db", map[string]string{"securityToken": ""}, providers.Denied, "InvalidSecurityToken.Malformed"},
		"half a body": {"half", nil, providers.Unavailable, ""},
		"nobody":      {"db", map[string]string{"endpoint": "http://127.0.0.1:1"}, providers.Unavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.WantKind(t, open(t, config(server, tt.more)), providers.Query{Name: tt.secret}, tt.kind, tt.text, key)
		})
	}
	for name, value := range map[string]string{"endpoint": "x", "regionId": "evil.example/"} {
		if _, err := alibaba.Driver().Open(t.Context(), config(server, map[string]string{name: value})); providers.KindOf(err) != providers.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
