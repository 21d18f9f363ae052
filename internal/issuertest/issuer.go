// Package issuertest is an issuer of service-account tokens, as an API server is one, for tests of what clouds do with
// such tokens.
package issuertest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// Issuer signs tokens (RS256) and checks them. It is safe for concurrent use.
type Issuer struct {
	URL string
	key func() *rsa.PrivateKey // made when it is first needed, because that takes a while
}

// Claims are what this package writes and reads of a token.
type Claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expires  int64    `json:"exp"`
}

// New returns an issuer with a key of its own.
func New() *Issuer {
	return &Issuer{URL: "https://issuer.invalid", key: sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	})}
}

// Subject returns the subject of a service account's tokens.
func Subject(namespace, account string) string {
	return "system:serviceaccount:" + namespace + ":" + account
}

// Token signs a token.
func (i *Issuer) Token(subject, audience string, expires time.Time) string {
	header := encode([]byte(`{"alg":"RS256","kid":"1","typ":"JWT"}`))
	claims, err := json.Marshal(Claims{i.URL, subject, []string{audience}, expires.Unix()})
	if err != nil {
		panic(err)
	}
	signed := header + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key(), crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + encode(signature)
}

// Verify returns the subject of a token that this issuer signed for audience and that has not expired.
func (i *Issuer) Verify(token, audience string) (string, error) {
	return verify(token, audience, i.URL, func(string) crypto.PublicKey { return &i.key().PublicKey })
}

// verify checks a token of an issuer whose keys are known by their IDs, and returns its subject.
func verify(token, audience, url string, keyOf func(keyID string) crypto.PublicKey) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("not a signed token")
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	var c Claims
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err := errors.Join(err, decode(parts[0], &header), decode(parts[1], &c)); err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := checkSignature(keyOf(header.KeyID), digest[:], signature); err != nil {
		return "", err
	}
	switch {
	case c.Issuer != url:
		return "", fmt.Errorf("issuer %q", c.Issuer)
	case len(c.Audience) != 1 || c.Audience[0] != audience:
		return "", fmt.Errorf("audience %q, want %q", c.Audience, audience)
	case time.Now().Unix() >= c.Expires:
		return "", errors.New("expired")
	}
	return c.Subject, nil
}

func decode(part string, into any) error {
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// JWKS returns the public key as a JSON web key set.
func (i *Issuer) JWKS() []byte {
	return fmt.Appendf(nil, `{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"1","n":%q,"e":%q}]}`,
		encode(i.key().N.Bytes()), encode(big.NewInt(int64(i.key().E)).Bytes()))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Query returns a query by a pod of a service account, with tokens for audience alone.
func (i *Issuer) Query(name, namespace, account, audience string) providers.Query {
	return providers.Query{
		Name:   name,
		Caller: providers.Caller{Namespace: namespace, ServiceAccount: account, Pod: account + "-1", PodUID: "uid-" + account},
		Tokens: source{i, Subject(namespace, account), audience},
	}
}

// source gives tokens of one subject for one audience.
type source struct {
	issuer            *Issuer
	subject, audience string
}

// Token refuses other audiences, as the kubelet does.
func (s source) Token(_ context.Context, audience string) (secret.Value, time.Time, error) {
	if audience != s.audience {
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Invalid, "no token for audience %q", audience)
	}
	expires := time.Now().Add(time.Hour)
	return secret.FromString(s.issuer.Token(s.subject, audience, expires)), expires, nil
}
