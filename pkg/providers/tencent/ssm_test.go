package tencent_test

import (
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/providers/tencent"
	"github.com/keywell/keywell/pkg/providers/tencent/tencenttest"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	id    = "AKIDEXAMPLE"
	key   = "k3y-of-tencent"
	token = "t0ken"
)

func properties(server *tencenttest.Server, more map[string]string) providers.Properties {
	p := providers.Properties{}
	for name, value := range map[string]string{"secretId": id, "secretKey": key, "token": token, "region": "ap-guangzhou", "endpoint": server.URL} {
		p[strings.ToLower(name)] = secret.FromString(value)
	}
	for name, value := range more {
		p[strings.ToLower(name)] = secret.FromString(value)
	}
	return p
}

func open(t *testing.T, p providers.Properties, log *slog.Logger) providers.Provider {
	t.Helper()
	got, err := tencent.DriverDialing(loopback.Dialer(t)).Open(t.Context(), providers.Config{Name: "tencent", Properties: p, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = got.Close() })
	return got
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := tencenttest.NewServer(t, id, key, token)
			return providertest.Store{
				Provider: open(t, properties(server, nil), log),
				Put: func(name string, fields map[string]string) string {
					return server.Put(name, fields[name], !utf8.ValidString(fields[name]))
				},
				Delete: server.Delete,
				Faults: faults(server),
				Hang:   func() { server.Fail(func(string) *tencenttest.Fault { return &tencenttest.Fault{Hang: true} }) },
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
		all[kind] = func(name string) { failName(server, name, tencenttest.Fault{Code: code}) }
	}
	return all
}

func failName(server *tencenttest.Server, name string, f tencenttest.Fault) {
	server.Fail(func(asked string) *tencenttest.Fault {
		if asked == name {
			return &f
		}
		return nil
	})
}

func TestVersionID(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	p := open(t, properties(server, nil), slog.New(slog.DiscardHandler))
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

func TestErrors(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry", false)
	server.Put("half", "c4n4ry", false)
	server.Put("down", "c4n4ry", false)
	server.Fail(func(name string) *tencenttest.Fault {
		return map[string]*tencenttest.Fault{"half": {}, "down": {Status: 502}}[name]
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
			_, err := open(t, properties(server, tt.more), slog.New(slog.DiscardHandler)).Fetch(t.Context(), providers.Query{Name: tt.secret})
			if err == nil || providers.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want %v with %q", err, tt.kind, tt.text)
			}
		})
	}
	if _, err := tencent.Driver().Open(t.Context(), providers.Config{Properties: properties(server, map[string]string{"endpoint": "x"})}); providers.KindOf(err) != providers.Invalid {
		t.Errorf("endpoint that is no URL: %v", err)
	}
}
