package vault_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

// TestContract runs the suite that all drivers pass, on both versions of the KV engine of a real Vault. Its events are a
// fake's: only Vault Enterprise has any.
func TestContract(t *testing.T) {
	for kind, h := range map[string]providertest.Harness{
		"kv-v2": {MultiField: true, Lists: true, Notifies: true, Compares: true, UnknownVersion: "99", RetryAfter: 7 * time.Second},
		"kv":    {MultiField: true, Lists: true, RetryAfter: 7 * time.Second},
	} {
		t.Run(kind, func(t *testing.T) {
			s := vaulttest.Shared(t)
			h.Open = func(t *testing.T, log *slog.Logger) providertest.Store { return newStore(t, newKV(t, s, kind), log) }
			providertest.Run(t, h)
		})
	}
}

// quiet is a provider without its events, which an engine of version 1 does not have.
type quiet struct {
	providers.Provider
	providers.Lister
}

func newStore(t *testing.T, k *kv, log *slog.Logger) providertest.Store {
	events := &vaulttest.Events{}
	k.Break(events.Serve)
	p := openLogging(t, providers.AsAgent, k.pairs, log)
	if strings.HasPrefix(k.mount, "kv-v2") {
		t.Cleanup(func() { events.Break(false) })
	} else {
		p = quiet{p, p.(providers.Lister)}
	}
	return providertest.Store{
		Provider: p,
		Put: func(name string, fields map[string]string) string {
			data := map[string]any{}
			for field, value := range fields {
				data[field] = value
			}
			version := k.put(t, name, data)
			events.Emit(k.mount + "/data/dapr/" + name)
			return version
		},
		Delete: func(name string) {
			k.delete(t, name)
			events.Emit(k.mount + "/metadata/dapr/" + name)
		},
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
