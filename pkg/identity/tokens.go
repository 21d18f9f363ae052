package identity

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// KubeletTokensKey is where the kubelet puts the pod's tokens: in the secrets of the publish call if the CSIDriver says
// serviceAccountTokenInSecrets (Kubernetes 1.35), otherwise in the volume context. Source:
// https://kubernetes-csi.github.io/docs/token-requests.html.
const KubeletTokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

// Tokens are the service-account tokens of one pod, as one publish call brought them: audience → token. The zero
// Tokens holds none. It is immutable and safe for concurrent use.
type Tokens struct{ byAudience map[string]token }

type token struct {
	value   secret.Value
	expires time.Time
}

var _ providers.TokenSource = Tokens{}

// errTokens holds nothing of what was read: the decoder's own errors may quote it.
var errTokens = errors.New(KubeletTokensKey + ` is not a JSON object of the form {"audience": {"token": "…", "expirationTimestamp": "…"}}`)

// ParseTokens reads the tokens from the secrets of a publish call or, if they are not there, from its volume context.
// A call that brings none gives a Tokens that holds none.
func ParseTokens(secrets, volumeContext map[string]string) (Tokens, error) {
	encoded, ok := secrets[KubeletTokensKey]
	if !ok {
		encoded = volumeContext[KubeletTokensKey]
	}
	if encoded == "" {
		return Tokens{}, nil
	}
	var decoded map[string]struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expirationTimestamp"`
	}
	if json.Unmarshal([]byte(encoded), &decoded) != nil {
		return Tokens{}, errTokens
	}
	t := Tokens{byAudience: make(map[string]token, len(decoded))}
	for audience, d := range decoded {
		if d.Token == "" || d.Expires.IsZero() {
			return Tokens{}, errTokens
		}
		t.byAudience[audience] = token{value: secret.FromString(d.Token), expires: d.Expires}
	}
	return t, nil
}

// Token returns the pod's token for audience and when it expires. The error is Invalid for an audience that the
// CSIDriver does not request, and Unavailable for a token that has expired: the kubelet's next publish call brings
// another.
func (t Tokens) Token(_ context.Context, audience string) (secret.Value, time.Time, error) {
	tok, ok := t.byAudience[audience]
	switch {
	case !ok && len(t.byAudience) == 0:
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Invalid,
			"no service-account token for audience %q: the kubelet sent none; list the audience in tokenRequests of the CSIDriver object", audience)
	case !ok:
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Invalid,
			"no service-account token for audience %q: the CSIDriver object requests tokens for %q only",
			audience, slices.Sorted(maps.Keys(t.byAudience)))
	case !time.Now().Before(tok.expires):
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Unavailable,
			"the service-account token for audience %q expired at %s, and the kubelet has not sent another",
			audience, tok.expires.UTC().Format(time.RFC3339))
	}
	return tok.value, tok.expires, nil
}
