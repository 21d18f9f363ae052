package aws_test

import (
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestSecretsManagerConformance(t *testing.T) {
	providertest.Run(t, secretsManagerHarness())
}

func secretsManagerHarness() providertest.Harness {
	return providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := newServer(t)
			cfg := storetest.Config(metadata(server, nil))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, aws.SecretsManagerType, cfg),
				Put: func(name string, fields map[string]string) string {
					value := fields[name]
					return server.PutSecret(name, value, !utf8.ValidString(value))
				},
				Delete: server.DeleteSecret,
				Faults: faults(server),
				Hang:   func() { hang(server) },
			}
		},
		Binary:         true,
		NoEmpty:        true,
		Lists:          true,
		PageSize:       100,
		Compares:       true,
		UnknownVersion: "ffffffff-0000-4000-8000-000000000000",
		CurrentStage:   "AWSCURRENT",
		PreviousStage:  "AWSPREVIOUS",
		RetryAfter:     3 * time.Second,
	}
}

func TestParameterStoreConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := newServer(t)
			cfg := storetest.Config(metadata(server, map[string]string{"prefix": "/prod/"}))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, aws.ParameterStoreType, cfg),
				Put: func(name string, fields map[string]string) string {
					return server.PutParameter("/prod/"+name, "SecureString", fields[name])
				},
				Delete: func(name string) { server.DeleteParameter("/prod/" + name) },
				Faults: faults(server),
				Hang:   func() { hang(server) },
			}
		},
		NoEmpty:        true,
		MaxValue:       8 << 10,
		Lists:          true,
		PageSize:       50,
		Compares:       true,
		UnknownVersion: "1000",
		RetryAfter:     3 * time.Second,
	})
}

func hang(server *awstest.Server) {
	server.Fail(func(awstest.Call) *awstest.Fault { return &awstest.Fault{Hang: true} })
}

func faults(server *awstest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, f := range map[providers.Kind]awstest.Fault{
		providers.NotFound:    {Code: "ResourceNotFoundException"},
		providers.Denied:      {Code: "AccessDeniedException"},
		providers.Invalid:     {Code: "ValidationException"},
		providers.Unavailable: {Code: "InternalServiceError", Status: http.StatusInternalServerError},
		providers.Throttled:   {Code: "ThrottlingException", Header: http.Header{"Retry-After": {"3"}}},
	} {
		all[kind] = func(name string) { failName(server, name, f) }
	}
	return all
}

// failName makes every call for one name fail.
func failName(server *awstest.Server, name string, f awstest.Fault) {
	server.Fail(func(c awstest.Call) *awstest.Fault {
		if slices.Contains(c.Names, name) || slices.Contains(c.Names, "/prod/"+name) {
			return &f
		}
		return nil
	})
}
