// Package storetest is what the tests of several drivers share: opening a provider as a manifest would, reading with it, and
// the cases of a store that is read as the pod (RunPods).
//
// What every provider owes is in pkg/providers/providertest, the plumbing of fakes in package servertest.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// With returns metadata, and more; where a name is in both, more's value.
func With(metadata, more map[string]string) map[string]string {
	all := maps.Clone(metadata)
	maps.Copy(all, more)
	return all
}

// Config is what a manifest with the metadata gives. The name identity is handled as package stores does.
func Config(metadata map[string]string) providers.Config {
	cfg := providers.Config{
		Name: "store", Logger: slog.New(slog.DiscardHandler), Identity: providers.AsAgent, Properties: providers.Properties{},
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

// Open opens a provider that is closed with the test.
func Open(t testing.TB, driver providers.Driver, cfg providers.Config) providers.Provider {
	t.Helper()
	p, err := driver.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Fetch reads with a deadline and returns the fields in plain.
func Fetch(t testing.TB, p providers.Provider, q providers.Query) (map[string]string, providers.Payload, error) {
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

// Want fails unless q yields one field, named as the secret, with the value.
func Want(t testing.TB, p providers.Provider, q providers.Query, value string) providers.Payload {
	t.Helper()
	got, payload, err := Fetch(t, p, q)
	if err != nil || len(got) != 1 || got[q.Name] != value {
		t.Errorf("%s: got %v, %v; want %s", q.Name, got, err, value)
	}
	return payload
}

// WantKind fails unless q fails with the kind and a text that has text, and without any of private, a secret (they begin
// with c4n4ry) or a token.
func WantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string, private ...string) {
	t.Helper()
	_, _, err := Fetch(t, p, q)
	if err == nil || providers.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v of kind %v, want %v with %q", q.Name, err, providers.KindOf(err), kind, text)
	}
	for _, word := range append(private, "c4n4ry", "eyJ") {
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), word) {
			t.Errorf("the error repeats %q: %v", word, err)
		}
	}
}

// WantInvalid fails unless a store with the metadata is refused with a text that has text, and without any of private.
func WantInvalid(t testing.TB, driver providers.Driver, metadata map[string]string, text string, private ...string) {
	t.Helper()
	_, err := driver.Open(t.Context(), Config(metadata))
	if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v of kind %v, want one that is invalid with %q", err, providers.KindOf(err), text)
	}
	for _, word := range private {
		if err != nil && strings.Contains(err.Error(), word) {
			t.Errorf("the error repeats %q: %v", word, err)
		}
	}
}

// Accounts are the annotations of service accounts: "namespace/name" → annotations.
type Accounts map[string]map[string]string

// Annotations returns them.
func (a Accounts) Annotations(_ context.Context, namespace, name string) (map[string]string, error) {
	return a[namespace+"/"+name], nil
}
