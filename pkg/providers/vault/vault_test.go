package vault_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

// TestContract runs the suite that all drivers pass, on both versions of the KV engine of a real Vault.
func TestContract(t *testing.T) {
	for kind, h := range map[string]providertest.Harness{
		"kv-v2": {MultiField: true, Lists: true, Compares: true, UnknownVersion: "99", RetryAfter: 7 * time.Second},
		"kv":    {MultiField: true, Lists: true, RetryAfter: 7 * time.Second},
	} {
		t.Run(kind, func(t *testing.T) {
			s := vaulttest.Shared(t)
			h.Open = func(t *testing.T, log *slog.Logger) providertest.Store { return newStore(t, newKV(t, s, kind), log) }
			providertest.Run(t, h)
		})
	}
}

func newStore(t *testing.T, k *kv, log *slog.Logger) providertest.Store {
	return providertest.Store{
		Provider: openLogging(t, providers.AsAgent, k.pairs, log),
		Put: func(name string, fields map[string]string) string {
			data := map[string]any{}
			for field, value := range fields {
				data[field] = value
			}
			return k.put(t, name, data)
		},
		Delete: func(name string) { k.delete(t, name) },
		Faults: map[providers.Kind]func(string){
			providers.Denied: func(name string) {
				k.PutPolicy(t, k.policy, k.mount+"/*", "read list", k.mount+"/data/dapr/"+name, "deny", k.mount+"/dapr/"+name, "deny")
			},
			providers.Throttled: func(name string) {
				k.Break(answer("/"+name, http.StatusTooManyRequests, "Retry-After", "7"))
			},
			providers.Unavailable: func(name string) { k.Break(answer("/"+name, http.StatusServiceUnavailable)) },
		},
		Hang: func() { k.Break(hang) },
	}
}
