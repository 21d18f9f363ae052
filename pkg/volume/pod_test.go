package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

// audienceTokens are a pod's tokens: one, for one audience.
type audienceTokens struct {
	audience, value string
	expires         time.Time
}

func (a audienceTokens) Token(_ context.Context, audience string) (secret.Value, time.Time, error) {
	if audience != a.audience {
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Invalid, "no token for %s", audience)
	}
	return secret.FromString(a.value), a.expires, nil
}

func TestPodTokens(t *testing.T) {
	n := newNode(t, func(o *volume.Options) { o.Localhost = true })
	at := time.Now().Add(time.Hour)
	publish := func(id, pod, value string, expires time.Time) {
		req := n.request(id, "")
		req.Attributes["api"] = "localhost"
		req.Identity.PodUID = pod
		req.Tokens = audienceTokens{audience: "vault", value: value, expires: expires}
		n.mustPublish(t, req)
	}
	publish("v1", "u1", "old", at)
	publish("v2", "u1", "new", at.Add(time.Minute))
	publish("v3", "u2", "theirs", at.Add(time.Hour))
	for pod, want := range map[string]string{"u1": "new", "u2": "theirs"} {
		if got, _, err := n.Tokens(pod).Token(t.Context(), "vault"); err != nil || string(got.Reveal()) != want {
			t.Errorf("pod %s: %v, want %s", pod, err, want)
		}
	}
	if _, _, err := n.Tokens("u1").Token(t.Context(), "aws"); providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), "aws") {
		t.Errorf("an audience without a token: %v", err)
	}
	for _, pod := range []string{"", "u3"} {
		if _, _, err := n.Tokens(pod).Token(t.Context(), "vault"); !errors.Is(err, providers.ErrNoTokens) {
			t.Errorf("a pod without a volume: %v", err)
		}
	}
	for pod, want := range map[string]bool{"u1": true, "u3": false} {
		if n.AskLocalhost()[pod] != want {
			t.Errorf("pod %s asks for localhost: %t", pod, !want)
		}
	}
	if err := n.Unpublish(t.Context(), "v3", n.target("v3")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.Tokens("u2").Token(t.Context(), "vault"); !errors.Is(err, providers.ErrNoTokens) || n.AskLocalhost()["u2"] {
		t.Errorf("after the volume's end: %v", err)
	}
}
