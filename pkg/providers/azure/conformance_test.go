package azure_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/azure/azuretest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := newServer(t)
			cfg := storetest.Config(metadata(server, nil))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, server, cfg),
				Put: func(name string, fields map[string]string) string {
					return server.Put(name, azuretest.Secret{Value: fields[name]})
				},
				Delete: server.Delete,
				Faults: faults(server),
				Hang: func() {
					server.Fail(func(servertest.Call) *servertest.Fault { return &servertest.Fault{Hang: true} })
				},
			}
		},
		MaxValue:       25 << 10,
		Lists:          true,
		PageSize:       25,
		UnknownVersion: "ffffffffffffffffffffffffffffffff",
		RetryAfter:     3 * time.Second,
	})
}

func faults(server *azuretest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, f := range map[providers.Kind]servertest.Fault{
		providers.NotFound:    {Status: http.StatusNotFound, Code: "SecretNotFound"},
		providers.Denied:      {Status: http.StatusForbidden, Code: "Forbidden"},
		providers.Invalid:     {Status: http.StatusBadRequest, Code: "BadParameter"},
		providers.Unavailable: {Status: http.StatusServiceUnavailable},
		providers.Throttled:   {Status: http.StatusTooManyRequests, Code: "Throttled", Header: http.Header{"Retry-After": {"3"}}},
	} {
		all[kind] = func(name string) { server.FailName(name, f) }
	}
	return all
}

// failName makes every read of one name fail.
