package providers_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/providers"
)

func TestGate(t *testing.T) {
	all := providers.Query{Name: "n", Version: "v", Stage: "s", Namespace: "ns"}
	released := 0
	g := providers.NewGate(providers.Selectors{Version: true, Stage: true, Namespace: true}, func() { released++ })
	if err := g.Enter(t.Context(), all); err != nil {
		t.Errorf("a store that has everything: %v", err)
	}
	for name, tt := range map[string]struct {
		has  providers.Selectors
		q    providers.Query
		text string
	}{
		"namespace":              {providers.Selectors{Version: true, Stage: true}, all, "no namespaces"},
		"stage, without version": {providers.Selectors{}, providers.Query{Stage: "s"}, "no stages"},
		"stage":                  {providers.Selectors{Version: true}, providers.Query{Stage: "s"}, "version_id"},
		"version":                {providers.Selectors{Stage: true}, providers.Query{Version: "v"}, "no versions"},
	} {
		err := providers.NewGate(tt.has, func() {}).Enter(t.Context(), tt.q)
		if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Enter(ended, all); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	for range 2 {
		if err := g.Close(); err != nil || released != 1 {
			t.Errorf("close: %v, released %d times", err, released)
		}
	}
	if err := g.Enter(t.Context(), all); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

func TestConsistsOf(t *testing.T) {
	for s, want := range map[string]bool{"aZ09": true, "a-b": true, "": false, "a/b": false, "ä": false, "12345": true, "123456": false} {
		if got := providers.ConsistsOf(s, 5, "-"); got != want {
			t.Errorf("%q: %t", s, got)
		}
	}
}

func TestURL(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "https://kms.example": "kms.example", "http://127.0.0.1:1": "127.0.0.1:1", "kms.example": "!", "https:///x": "!", "file://x": "!",
	} {
		d := properties(map[string]string{"vaultAddr": text}).Decode(declared())
		u := d.URL("vaultAddr", "https://kms.example")
		switch err := d.Err(); {
		case want == "!" && (u != nil || err == nil || !strings.Contains(err.Error(), `field "vaultAddr" is not a URL such as https://kms.example`)):
			t.Errorf("%q: %v, %v", text, u, err)
		case want == "" && (u != nil || err != nil), want != "" && want != "!" && (err != nil || u.Host != want):
			t.Errorf("%q: %v, %v", text, u, err)
		}
	}
}
