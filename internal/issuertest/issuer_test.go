package issuertest_test

import (
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
)

// TestVerify: an issuer and its published keys take the same tokens.
func TestVerify(t *testing.T) {
	issuer, other := issuertest.New(), issuertest.New()
	keys, err := issuertest.ReadKeys(issuer.URL, issuer.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := issuertest.ReadKeys("https://elsewhere.invalid", issuer.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	subject, later := issuertest.Subject("shop", "web"), time.Now().Add(time.Hour)
	good := issuer.Token(subject, "aud", later)
	for name, v := range map[string]interface {
		Verify(token, audience string) (string, error)
	}{"issuer": issuer, "keys": keys} {
		if got, err := v.Verify(good, "aud"); got != subject || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for what, token := range map[string]string{
			"another audience": issuer.Token(subject, "other", later), "an old one": issuer.Token(subject, "aud", time.Now().Add(-time.Minute)),
			"another issuer": other.Token(subject, "aud", later), "none": "", "a part": good[:len(good)-20],
		} {
			if got, err := v.Verify(token, "aud"); err == nil {
				t.Errorf("%s takes a token of %s: %q", name, what, got)
			}
		}
	}
	if _, err := elsewhere.Verify(good, "aud"); err == nil {
		t.Error("a token of another URL is taken")
	}
}
