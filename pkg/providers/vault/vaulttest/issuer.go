package vaulttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/secret"
)

// Issuer signs service-account tokens as a cluster does, and reviews them.
type Issuer struct{ key *ecdsa.PrivateKey }

// NewIssuer returns an Issuer with a key of its own.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{key: key}
}

// PublicKey returns the key that verifies the tokens, as PEM.
func (i *Issuer) PublicKey(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

type claims struct {
	Audience   []string `json:"aud"`
	Subject    string   `json:"sub"`
	Issuer     string   `json:"iss"`
	IssuedAt   int64    `json:"iat"`
	Expires    int64    `json:"exp"`
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

// JWT returns a token of a service account for an audience.
func (i *Issuer) JWT(t testing.TB, namespace, account, audience string) string {
	t.Helper()
	c := claims{
		Audience: []string{audience}, Subject: "system:serviceaccount:" + namespace + ":" + account, Issuer: "https://cluster.test",
		IssuedAt: time.Now().Unix(), Expires: time.Now().Add(time.Hour).Unix(),
	}
	c.Kubernetes.Namespace, c.Kubernetes.ServiceAccount.Name, c.Kubernetes.ServiceAccount.UID = namespace, account, "uid-of-"+account
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	text := encode([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + encode(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + encode(signature)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Tokens is a pod's tokens: it has one for every audience.
type Tokens struct {
	T                  testing.TB
	Issuer             *Issuer
	Namespace, Account string
}

// Token returns a token for audience.
func (p Tokens) Token(_ context.Context, audience string) (secret.Value, time.Time, error) {
	return secret.FromString(p.Issuer.JWT(p.T, p.Namespace, p.Account, audience)), time.Now().Add(time.Hour), nil
}

// Reviewer starts an API server that knows TokenReview only, and returns its address and CA.
func (i *Issuer) Reviewer(t testing.TB) (addr, ca string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Spec struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
		}
		if !strings.HasSuffix(r.URL.Path, "/tokenreviews") || json.NewDecoder(r.Body).Decode(&review) != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		var c claims
		status := map[string]any{"authenticated": false, "error": "not a token of this cluster"}
		if parts := strings.Split(review.Spec.Token, "."); len(parts) == 3 {
			body, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err == nil && json.Unmarshal(body, &c) == nil && i.signed(parts) {
				status = map[string]any{"authenticated": true, "audiences": c.Audience, "user": map[string]any{
					"username": c.Subject, "uid": c.Kubernetes.ServiceAccount.UID, "groups": []string{"system:serviceaccounts"},
				}}
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
	}))
	t.Cleanup(server.Close)
	return server.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

func (i *Issuer) signed(parts []string) bool {
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return false
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return ecdsa.Verify(&i.key.PublicKey, sum[:], bigInt(signature[:32]), bigInt(signature[32:]))
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
