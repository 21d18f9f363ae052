// Package azuretest is a fake of the parts of Azure that the driver uses: a Key Vault, Entra ID's token endpoint and the
// node's managed identity endpoint, on one loopback listener with TLS and one without.
//
// It is strict where Azure is: client secrets, certificate assertions and federated tokens are checked, a vault answers
// with a challenge before it takes a token, and takes only those that were given for it; callers do what they were allowed.
// Its error messages hold the secret that was asked for. Failures can be injected, calls are counted.
package azuretest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Tenant is the only one.
const Tenant = "72f988bf-0000-0000-0000-2d7cd011db47"

// Resource is what tokens for a vault are for.
const Resource = "https://vault.azure.net"

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Record // of calls such as "secrets/get", "secrets/list", "keys/get", "token", "managedidentity"
	servertest.Grants // to client ids

	URL      string             // of the vault, and of Entra ID
	Identity string             // address of the managed identity endpoint: HOST:PORT
	Issuer   *issuertest.Issuer // of the tokens that applications may trust

	mu      sync.Mutex
	apps    map[string]*app      // client id → application
	tokens  map[string]string    // token → client id
	secrets map[string][]*Secret // name → versions, oldest first
	keys    map[string]map[string]any
	managed string // client id of the node's identity; empty: none
	asks    string // resource that the vault's challenge names
	serial  int
	life    time.Duration
}

// Secret is one version of a secret.
type Secret struct {
	Value, ContentType string
	Disabled           bool
	Expires            time.Time // zero: never
	version            string
}

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB) *Server {
	s := &Server{
		Issuer: issuertest.New(), apps: map[string]*app{}, tokens: map[string]string{},
		secrets: map[string][]*Secret{}, keys: map[string]map[string]any{}, life: time.Hour, asks: Resource,
	}
	s.URL = servertest.Serve(t, true, s.serve).URL
	s.Identity = servertest.Serve(t, false, s.serveManagedIdentity).Listener.Addr().String()
	return s
}

// Put writes a version of a secret and returns its id.
func (s *Server) Put(name string, v Secret) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	v.version = fmt.Sprintf("%032x", s.serial)
	s.secrets[name] = append(s.secrets[name], &v)
	return v.version
}

// PutKey writes a key: a JSON web key.
func (s *Server) PutKey(name string, jwk map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name] = jwk
}

// Delete removes a secret.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets, name)
}

// Challenge makes the vault ask for tokens for another resource.
func (s *Server) Challenge(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks = resource
}

// Revoke makes every token that was given invalid.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	switch {
	case parts[0] == "secrets" || parts[0] == "keys":
		s.serveVault(w, r, parts)
	case parts[0] == Tenant:
		s.serveLogin(w, r, strings.Join(parts[1:], "/"))
	default:
		http.NotFound(w, r)
	}
}

// failure is an answer that is no success.
type failure struct {
	status        int
	code, message string
}

func (s *Server) serveVault(w http.ResponseWriter, r *http.Request, parts []string) {
	if r.Method != http.MethodGet || r.URL.Query().Get("api-version") == "" {
		answer(w, nil, &failure{http.StatusBadRequest, "BadParameter", "only GET with an api-version"})
		return
	}
	token, has := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	client, known := s.tokens[token]
	asks := s.asks
	s.mu.Unlock()
	if !has || !known {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer authorization=%q, resource=%q", s.URL+"/"+Tenant, asks))
		answer(w, nil, &failure{http.StatusUnauthorized, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token. " + token})
		return
	}
	c := servertest.Call{Action: parts[0] + "/get", Principal: client}
	if len(parts) > 1 {
		c.Name = parts[1]
	} else {
		c.Action = parts[0] + "/list"
	}
	fault := s.Note(c)
	s.mu.Lock()
	out, failed := s.do(c, r, parts)
	s.mu.Unlock()
	if fault != nil {
		fail(w, r, *fault, fmt.Sprint(out))
		return
	}
	answer(w, out, failed)
}

// do answers a request of a vault. s.mu is held.
func (s *Server) do(c servertest.Call, r *http.Request, parts []string) (any, *failure) {
	if !s.May(c) {
		return nil, &failure{http.StatusForbidden, "Forbidden", "The user, group or application does not have " + c.Action}
	}
	version := ""
	if len(parts) > 2 {
		version = parts[2]
	}
	switch {
	case c.Action == "secrets/list":
		return s.list(r)
	case c.Action == "keys/get" && s.keys[c.Name] != nil:
		return map[string]any{"key": s.keys[c.Name], "attributes": map[string]any{"enabled": true}}, nil
	case c.Action == "secrets/get" && len(s.secrets[c.Name]) > 0:
		return s.getSecret(c.Name, version)
	default:
		return nil, &failure{http.StatusNotFound, "SecretNotFound", "not found in this key vault: " + c.Name}
	}
}

func (s *Server) getSecret(name, version string) (any, *failure) {
	versions := s.secrets[name]
	i := len(versions) - 1
	if version != "" {
		if i = slices.IndexFunc(versions, func(v *Secret) bool { return v.version == version }); i < 0 {
			return nil, &failure{http.StatusNotFound, "SecretNotFound", "no such version"}
		}
	}
	v := versions[i]
	if v.Disabled {
		return nil, &failure{http.StatusForbidden, "SecretDisabled", "Operation get is not allowed on a disabled secret: " + v.Value}
	}
	return map[string]any{
		"value": v.Value, "contentType": v.ContentType, "id": s.URL + "/secrets/" + name + "/" + v.version, "attributes": attributes(v),
	}, nil
}

func attributes(v *Secret) map[string]any {
	a := map[string]any{"enabled": !v.Disabled, "created": 1700000000, "updated": 1700000000, "recoveryLevel": "Recoverable"}
	if !v.Expires.IsZero() {
		a["exp"] = v.Expires.Unix()
	}
	return a
}

// pageSize is the service's.
const pageSize = 25

func (s *Server) list(r *http.Request) (any, *failure) {
	var names []string
	for name := range s.secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.Reverse(names) // no order is promised
	start := 0
	if token := r.URL.Query().Get("$skiptoken"); token != "" {
		if _, err := fmt.Sscanf(token, "at-%d", &start); err != nil || start > len(names) {
			return nil, &failure{http.StatusBadRequest, "BadParameter", token}
		}
	}
	end := min(start+pageSize, len(names))
	items := []any{}
	for _, name := range names[start:end] {
		versions := s.secrets[name]
		items = append(items, map[string]any{"id": s.URL + "/secrets/" + name, "attributes": attributes(versions[len(versions)-1])})
	}
	out := map[string]any{"value": items, "nextLink": nil}
	if end < len(names) {
		out["nextLink"] = fmt.Sprintf("%s/secrets?api-version=%s&$skiptoken=at-%d", s.URL, r.URL.Query().Get("api-version"), end)
	}
	return out, nil
}

func answer(w http.ResponseWriter, out any, f *failure) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if f == nil {
		_ = json.NewEncoder(w).Encode(out)
		return
	}
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": f.code, "message": f.message, "innererror": map[string]string{"code": f.code}}})
}

// fail answers with a fault. The text holds what the answer would have been.
func fail(w http.ResponseWriter, r *http.Request, f servertest.Fault, text string) {
	if !f.Break(w, r, `{"value":"`, text) {
		answer(w, nil, &failure{f.Status, f.Code, text})
	}
}
