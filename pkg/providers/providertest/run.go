package providertest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// canary is part of every value that the suite stores, where the case leaves room for it.
const canary = "c4n4ry-s3cr3t"

// Run checks that the provider of h keeps the contract of package providers. Each rule is one subtest on a store of
// its own.
func Run(t *testing.T, h Harness) {
	h = h.withDefaults()
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"capabilities", capabilities},
		{"fetch/value", fetchValue},
		{"fetch/fields", fetchFields},
		{"fetch/exact_bytes", fetchExactBytes},
		{"fetch/replaced", fetchReplaced},
		{"fetch/deleted", fetchDeleted},
		{"fetch/missing", fetchMissing},
		{"fetch/hostile_names", fetchHostileNames},
		{"fetch/payload_is_owned", fetchPayloadIsOwned},
		{"fetch/other_metadata", fetchOtherMetadata},
		{"fetch/known", fetchKnown},
		{"select/version", selectVersion},
		{"select/stage", selectStage},
		{"select/namespace", selectNamespace},
		{"list/empty", listEmpty},
		{"list/pages", listPages},
		{"list/namespace", listNamespace},
		{"errors/kinds", errorKinds},
		{"context/ended", contextEnded},
		{"context/ends_midway", contextEndsMidway},
		{"close", closeProvider},
		{"concurrent", concurrent},
		{"notify/changes", notifyChanges},
		{"notify/many", notifyMany},
		{"notify/ends", notifyEnds},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{T: t, Harness: h, log: &logtest.Buffer{}}
			s.Store = h.Open(t, slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			c.run(s)
			s.noLeak("the log", s.log.String())
		})
	}
}

// suite is one case: the test, the harness and a store of its own.
type suite struct {
	*testing.T
	Harness
	Store
	log *logtest.Buffer
}

// capabilities fails if the harness and the provider disagree about what the provider is. Without it, a method with a
// misspelt signature would turn tests off.
func capabilities(s *suite) {
	if _, ok := s.Provider.(providers.Lister); ok != s.Lists {
		s.Errorf("the provider is a Lister: %t, the harness says %t", ok, s.Lists)
	}
	if _, ok := s.Provider.(providers.Notifier); ok != s.Notifies {
		s.Errorf("the provider is a Notifier: %t, the harness says %t", ok, s.Notifies)
	}
}

// put stores a secret with one field, named as the secret.
func (s *suite) put(name, value string) (version string) {
	return s.Put(name, map[string]string{name: value})
}

// told returns what the payload of a query without a version must say of the version that Put returned.
func (s *suite) told(version string) string {
	if s.VersionsUntold {
		return ""
	}
	return version
}

// context returns a context that ends when the suite's patience does.
func (s *suite) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.T.Context(), s.Patience)
}

// fetch fetches with the suite's patience and checks what every error must keep to.
func (s *suite) fetch(q providers.Query) (providers.Payload, error) {
	ctx, cancel := s.context()
	defer cancel()
	p, err := s.Provider.Fetch(ctx, q)
	s.checkError(err)
	return p, err
}

// list is fetch for List.
func (s *suite) list(q providers.Query) ([]string, error) {
	ctx, cancel := s.context()
	defer cancel()
	names, err := s.Provider.(providers.Lister).List(ctx, q)
	s.checkError(err)
	return names, err
}

func (s *suite) checkError(err error) {
	s.Helper()
	if err == nil {
		return
	}
	s.noLeak("an error", err.Error())
	if providers.KindOf(err) == providers.Unknown {
		s.Errorf("error without a kind: %v", err)
	}
}

// noLeak fails if text holds the canary, plain or encoded.
func (s *suite) noLeak(where, text string) {
	s.Helper()
	// The first bytes of the canary whose number is a multiple of three have one base64 form, if they start a value.
	for _, form := range []string{canary, hex.EncodeToString([]byte(canary)), base64.StdEncoding.EncodeToString([]byte(canary[:12]))} {
		if strings.Contains(text, form) {
			s.Errorf("%s holds secret bytes, as %q", where, form)
		}
	}
}

// wantValue fails unless q yields a secret with the one field name.
func (s *suite) wantValue(q providers.Query, value string) {
	s.Helper()
	s.wantFields(q, map[string]string{q.Name: value})
}

func (s *suite) wantFields(q providers.Query, want map[string]string) {
	s.Helper()
	p, err := s.fetch(q)
	if err != nil {
		s.Errorf("Fetch(%+v): %v", q, err)
		return
	}
	if diff := cmp.Diff(want, reveal(p.Fields)); diff != "" || p.Unchanged {
		s.Errorf("Fetch(%+v) mismatch (-want +got):\n%s", q, diff)
	}
}

// wantKind fails unless q fails with one of kinds.
func (s *suite) wantKind(q providers.Query, kinds ...providers.Kind) {
	s.Helper()
	p, err := s.fetch(q)
	if err == nil {
		s.Errorf("Fetch(%+v) = fields %v, want an error of kind %v", q, reveal(p.Fields), kinds)
		return
	}
	s.isKind(err, kinds...)
}

func (s *suite) isKind(err error, kinds ...providers.Kind) {
	s.Helper()
	for _, k := range kinds {
		if providers.KindOf(err) == k {
			return
		}
	}
	s.Errorf("error %v is of kind %v, want %v", err, providers.KindOf(err), kinds)
}

// lister skips the case if the store can't list.
func (s *suite) lister() {
	s.Helper()
	if _, ok := s.Provider.(providers.Lister); !ok {
		s.Skip("the store can't list")
	}
}

func reveal(fields map[string]secret.Value) map[string]string {
	plain := make(map[string]string, len(fields))
	for name, v := range fields {
		plain[name] = string(v.Reveal())
	}
	return plain
}
