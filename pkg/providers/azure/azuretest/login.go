package azuretest

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywell/keywell/internal/servertest"
)

// app is an application, or a user-assigned managed identity.
type app struct {
	secret      string
	certificate *x509.Certificate
	subjects    []string // of federated tokens
}

// App makes an application with a client secret; an empty one is none.
func (s *Server) App(client, secret string) { s.add(client, app{secret: secret}) }

// AppWithCertificate makes an application that signs its assertions.
func (s *Server) AppWithCertificate(client string, c *x509.Certificate) {
	s.add(client, app{certificate: c})
}

// AppTrusting makes an application with federated credentials for the subjects.
func (s *Server) AppTrusting(client string, subjects ...string) {
	s.add(client, app{subjects: subjects})
}

// NodeIdentity is the managed identity that the node has.
func (s *Server) NodeIdentity(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.managed = client
}

func (s *Server) add(client string, a app) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[client] = &a
}

// serveLogin is Entra ID for one tenant.
func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request, path string) {
	switch path {
	case "v2.0/.well-known/openid-configuration":
		answer(w, map[string]string{
			"token_endpoint": s.URL + "/" + Tenant + "/oauth2/v2.0/token", "authorization_endpoint": s.URL + "/" + Tenant + "/oauth2/v2.0/authorize",
			"issuer": s.URL + "/" + Tenant + "/v2.0",
		}, nil)
	case "oauth2/v2.0/token":
		s.serveToken(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.Method != http.MethodPost {
		refuse(w, http.StatusBadRequest, 900144, "no form")
		return
	}
	client := r.PostForm.Get("client_id")
	c := servertest.Call{Action: "token", Name: r.PostForm.Get("scope"), Principal: client}
	fault := s.Note(c)
	s.mu.Lock()
	a := s.apps[client]
	s.mu.Unlock()
	switch {
	case fault != nil:
		fail(w, r, *fault, r.PostForm.Encode())
	case r.PostForm.Get("grant_type") != "client_credentials":
		refuse(w, http.StatusBadRequest, 70003, "grant_type")
	case !strings.Contains(c.Name, Resource+"/.default"):
		refuse(w, http.StatusBadRequest, 70011, "scope "+c.Name)
	case a == nil:
		refuse(w, http.StatusBadRequest, 700016, "application not found: "+client)
	case !s.proven(a, client, r):
		refuse(w, http.StatusUnauthorized, 700213, "no match for "+r.PostForm.Encode())
	default:
		answer(w, map[string]any{"token_type": "Bearer", "expires_in": int(s.life.Seconds()), "access_token": s.give(client)}, nil)
	}
}

// proven tells whether a request for a token comes from the application.
func (s *Server) proven(a *app, client string, r *http.Request) bool {
	assertion := r.PostForm.Get("client_assertion")
	switch {
	case a.secret != "":
		return r.PostForm.Get("client_secret") == a.secret
	case r.PostForm.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return false
	case a.certificate != nil:
		return s.signed(a.certificate, client, assertion)
	default:
		subject, err := s.Issuer.Verify(assertion, "api://AzureADTokenExchange")
		return err == nil && slices.Contains(a.subjects, subject)
	}
}

// signed checks an assertion that was made with a certificate's key.
func (s *Server) signed(c *x509.Certificate, client, assertion string) bool {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return false
	}
	var header struct{ Alg string }
	var claims struct {
		Iss, Sub string
		Exp      int64
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !decode(parts[0], &header) || !decode(parts[1], &claims) {
		return false
	}
	if claims.Iss != client || claims.Sub != client || time.Now().Unix() > claims.Exp {
		return false
	}
	public, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok {
		return false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if header.Alg == "PS256" {
		return rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, nil) == nil
	}
	return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
}

func decode(part string, out any) bool {
	b, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(b, out) == nil
}

// give makes a token.
func (s *Server) give(client string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	token := fmt.Sprintf("token-%d-of-%s", s.serial, client)
	s.tokens[token] = client
	return token
}

// serveManagedIdentity is the endpoint of the node, 169.254.169.254.
func (s *Server) serveManagedIdentity(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.Note(servertest.Call{Action: "managedidentity", Name: q.Get("resource"), Principal: q.Get("client_id")})
	s.mu.Lock()
	client := s.managed
	s.mu.Unlock()
	switch {
	case r.URL.Path != "/metadata/identity/oauth2/token" || r.Header.Get("Metadata") != "true" || q.Get("api-version") == "":
		http.Error(w, `{"error":"bad_request"}`, http.StatusBadRequest)
	case client == "" || q.Get("client_id") != "" && q.Get("client_id") != client:
		http.Error(w, `{"error":"invalid_request","error_description":"Identity not found"}`, http.StatusBadRequest)
	case q.Get("resource") != Resource:
		http.Error(w, `{"error":"invalid_resource"}`, http.StatusBadRequest)
	default:
		answer(w, map[string]any{
			"access_token": s.give(client), "expires_in": "3600", "expires_on": fmt.Sprint(time.Now().Add(time.Hour).Unix()),
			"resource": Resource, "token_type": "Bearer",
		}, nil)
	}
}

// refuse answers as Entra ID does.
func refuse(w http.ResponseWriter, status, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"error": "invalid_client", "error_description": fmt.Sprintf("AADSTS%d: %s", code, message), "error_codes": []int{code},
	})
}
