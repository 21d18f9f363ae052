package identity_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/providers"
)

const canary = "c4n4ry-t0k3n"

func with(tokens string) map[string]string {
	return map[string]string{identity.KubeletTokensKey: tokens}
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(time.Hour).Truncate(time.Second)
		sent := fmt.Sprintf(`{"vault":{"token":%q,"expirationTimestamp":%q},"":{"token":"api","expirationTimestamp":%[2]q}}`,
			canary, expires.Format(time.RFC3339))
		tokens, err := identity.ParseTokens(nil, with(sent))
		if err != nil {
			t.Fatal(err)
		}
		for audience, want := range map[string]string{"vault": canary, "": "api"} {
			got, until, err := tokens.Token(t.Context(), audience)
			if err != nil || string(got.Reveal()) != want || !until.Equal(expires) {
				t.Errorf("audience %q: token %q until %v, error %v", audience, got.Reveal(), until, err)
			}
		}

		_, _, err = tokens.Token(t.Context(), "aws")
		if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), `"aws"`) || !strings.Contains(err.Error(), `"vault"`) {
			t.Errorf("unknown audience: %v", err)
		}

		time.Sleep(time.Until(expires))
		_, _, err = tokens.Token(t.Context(), "vault")
		if providers.KindOf(err) != providers.Unavailable || !strings.Contains(err.Error(), "expired at "+expires.UTC().Format(time.RFC3339)) {
			t.Errorf("expired: %v", err)
		}

		printed := fmt.Sprintf("%v %+v %#v %s", tokens, tokens, tokens, err)
		if encoded, err := json.Marshal([]any{tokens}); err == nil {
			printed += string(encoded)
		}
		if strings.Contains(printed, canary) {
			t.Errorf("the token was printed: %s", printed)
		}
	})
}

func TestTokensFromSecretsComeFirst(t *testing.T) {
	one := func(token string) map[string]string {
		return with(`{"a":{"token":"` + token + `","expirationTimestamp":"2999-01-01T00:00:00Z"}}`)
	}
	tests := []struct {
		name             string
		secrets, context map[string]string
		want             string // empty: none
	}{
		{name: "secrets", secrets: one("s"), want: "s"},
		{name: "context", context: one("c"), want: "c"},
		{name: "both", secrets: one("s"), context: one("c"), want: "s"},
		{name: "secrets say none", secrets: with(""), context: one("c")},
		{name: "neither"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tokens, err := identity.ParseTokens(test.secrets, test.context)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := tokens.Token(t.Context(), "a")
			switch {
			case test.want == "" && (providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), "tokenRequests")):
				t.Errorf("error %v, want one that names tokenRequests", err)
			case test.want != "" && (err != nil || string(got.Reveal()) != test.want):
				t.Errorf("token %q, error %v", got.Reveal(), err)
			}
		})
	}
}

func TestParseTokensRefuses(t *testing.T) {
	for _, sent := range []string{
		canary,
		`"` + canary + `"`,
		`{"vault":"` + canary + `"}`,
		`{"vault":{"token":"` + canary + `"}}`,
		`{"vault":{"token":"` + canary + `","expirationTimestamp":"` + canary + `"}}`,
		`{"vault":{"token":"` + canary + `","expirationTimestamp":"2999-01-01T00:00:00Z"}} ` + canary,
		`{"vault":{"token":"","expirationTimestamp":"2999-01-01T00:00:00Z"}}`,
		`{"vault":{"token":17,"expirationTimestamp":"2999-01-01T00:00:00Z"}}`,
	} {
		t.Run(sent, func(t *testing.T) {
			_, err := identity.ParseTokens(nil, with(sent))
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes what was sent: %v", err)
			}
		})
	}
}

// FuzzParseTokens looks for a panic, and for anything of the input in an error.
func FuzzParseTokens(f *testing.F) {
	f.Add(`{"vault":{"token":"t","expirationTimestamp":"2999-01-01T00:00:00Z"}}`)
	f.Add(`{"vault":{"token":17}}`)
	f.Add(`null`)
	f.Add(`{"":{}}`)
	f.Fuzz(func(t *testing.T, sent string) {
		_, empty := identity.ParseTokens(nil, with("{"))
		_, err := identity.ParseTokens(nil, with(sent))
		switch {
		case err == nil && sent != "" && !json.Valid([]byte(sent)):
			t.Error("accepted what is not JSON")
		case err != nil && err.Error() != empty.Error():
			t.Errorf("the error depends on the input: %v", err)
		}
	})
}

// FuzzFromVolumeContext looks for an identity with a hole in it.
func FuzzFromVolumeContext(f *testing.F) {
	f.Add("web-0", "shop", "0f3c", "web")
	f.Add("", "shop", "0f3c", "web")
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, name, namespace, uid, account string) {
		id, err := identity.FromVolumeContext(map[string]string{
			"csi.storage.k8s.io/pod.name":            name,
			"csi.storage.k8s.io/pod.namespace":       namespace,
			"csi.storage.k8s.io/pod.uid":             uid,
			"csi.storage.k8s.io/serviceAccount.name": account,
		})
		whole := name != "" && namespace != "" && uid != "" && account != ""
		if whole != (err == nil) {
			t.Errorf("identity %+v, error %v", id, err)
		}
	})
}
