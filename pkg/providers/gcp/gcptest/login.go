package gcptest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Provider is the workload identity provider that trusts Issuer, and Audience what a pod's token for it must say.
const (
	Provider = "//iam.googleapis.com/projects/" + Number + "/locations/global/workloadIdentityPools/keywell/providers/cluster"
	Audience = "https:" + Provider
)

// serviceAccount is one of the cloud's.
type serviceAccount struct {
	key      *rsa.PublicKey
	subjects []string // principals that may become it
}

// Principal returns who a federated token with a subject is.
func Principal(subject string) string {
	return "principal://iam.googleapis.com/projects/" + Number + "/locations/global/workloadIdentityPools/keywell/subject/" + subject
}

// Key makes a service account with a key, and returns the key in PEM.
func (s *Server) Key(t testing.TB, email string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[email] = serviceAccount{key: &key.PublicKey}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// ServiceAccount makes a service account that federated subjects may become.
func (s *Server) ServiceAccount(email string, subjects ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[email] = serviceAccount{subjects: subjects}
}

// NodeIdentity is the principal of the metadata server's tokens.
func (s *Server) NodeIdentity(principal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = principal
}

func (s *Server) count(action, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, Call{Action: action, Name: name})
}

func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	email, impersonates := strings.CutPrefix(r.URL.Path, "/v1/projects/-/serviceAccounts/")
	switch {
	case r.Method != http.MethodPost:
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
	case r.URL.Path == "/token":
		s.serveAssertion(w, r)
	case r.URL.Path == "/v1/token":
		s.serveSTS(w, r)
	case impersonates && strings.HasSuffix(email, ":generateAccessToken"):
		s.serveImpersonation(w, r, strings.TrimSuffix(email, ":generateAccessToken"))
	default:
		http.NotFound(w, r)
	}
}

// serveAssertion exchanges what a service account signed.
func (s *Server) serveAssertion(w http.ResponseWriter, r *http.Request) {
	s.count("assertion", "")
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", "")
		return
	}
	parts := strings.Split(r.PostForm.Get("assertion"), ".")
	var claims struct {
		Iss, Aud, Scope string
		Exp             int64
	}
	if len(parts) != 3 || !decode(parts[1], &claims) {
		refuse(w, http.StatusBadRequest, "invalid_grant", r.PostForm.Encode())
		return
	}
	s.mu.Lock()
	account := s.keys[claims.Iss]
	s.mu.Unlock()
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || account.key == nil || rsa.VerifyPKCS1v15(account.key, crypto.SHA256, digest[:], signature) != nil ||
		claims.Aud != s.Login+"/token" || !strings.Contains(claims.Scope, "cloud-platform") || time.Now().Unix() > claims.Exp {
		refuse(w, http.StatusBadRequest, "invalid_grant", "Invalid JWT Signature: "+r.PostForm.Get("assertion"))
		return
	}
	token, _ := s.give(claims.Iss)
	answer(w, map[string]any{"access_token": token, "expires_in": 3600, "token_type": "Bearer"})
}

// serveSTS exchanges a pod's token for a federated one.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", "")
		return
	}
	f := r.PostForm
	s.count("sts", f.Get("audience"))
	subject, err := s.Issuer.Verify(f.Get("subject_token"), Audience)
	switch {
	case f.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" || f.Get("audience") != Provider ||
		f.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt" || f.Get("requested_token_type") != "urn:ietf:params:oauth:token-type:access_token":
		refuse(w, http.StatusBadRequest, "invalid_request", f.Encode())
	case err != nil:
		refuse(w, http.StatusBadRequest, "invalid_grant", err.Error()+": "+f.Get("subject_token"))
	default:
		token, _ := s.give(Principal(subject))
		answer(w, map[string]any{
			"access_token": token, "expires_in": 3600, "token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		})
	}
}

// serveImpersonation makes a federated principal a service account.
func (s *Server) serveImpersonation(w http.ResponseWriter, r *http.Request, email string) {
	if plain, err := url.PathUnescape(email); err == nil {
		email = plain
	}
	s.count("impersonate", email)
	s.mu.Lock()
	principal := s.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	trusted := slices.ContainsFunc(s.keys[email].subjects, func(subject string) bool { return Principal(subject) == principal })
	s.mu.Unlock()
	if !trusted {
		refuse(w, http.StatusForbidden, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied: "+r.Header.Get("Authorization"))
		return
	}
	token, expires := s.give(email)
	answer(w, map[string]any{"accessToken": token, "expireTime": expires.UTC().Format(time.RFC3339)})
}

// serveMetadata is the metadata server of a node.
func (s *Server) serveMetadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	s.mu.Lock()
	node := s.node
	s.mu.Unlock()
	switch {
	case r.Header.Get("Metadata-Flavor") != "Google":
		http.Error(w, "Metadata-Flavor", http.StatusForbidden)
	case strings.HasSuffix(r.URL.Path, "/instance/service-accounts/default/token") && node != "":
		s.count("metadata", "")
		token, _ := s.give(node)
		answer(w, map[string]any{"access_token": token, "expires_in": 3600, "token_type": "Bearer"})
	case strings.HasSuffix(r.URL.Path, "/universe/universe-domain"):
		_, _ = fmt.Fprint(w, "googleapis.com")
	default:
		http.NotFound(w, r)
	}
}

func decode(part string, out any) bool {
	b, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(b, out) == nil
}

func answer(w http.ResponseWriter, out any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func refuse(w http.ResponseWriter, code int, name, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": name, "error_description": text})
}
