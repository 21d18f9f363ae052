// Package alibabatest is a fake of Alibaba Cloud on loopback: OOS Parameter Store (signature ACS3-HMAC-SHA256), STS and a node's
// metadata service.
//
// It computes every signature again, checks web identity tokens, lets callers do what they were allowed, refuses calls that it
// does not know, and puts the secret that was asked for into its error messages. Failures can be injected, calls are counted.
package alibabatest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Record // of calls such as "GetSecretParameter", "AssumeRoleWithOIDC", "node"
	servertest.Grants // to the user "user" and to roles
	servertest.Keys

	URL    string             // of Parameter Store and STS
	Node   string             // HOST:PORT of the metadata service
	Issuer *issuertest.Issuer // of the tokens that Provider trusts

	mu         sync.Mutex
	node       string // name of the node's role; empty: none
	oldNode    bool
	parameters map[string][]string // name → values, oldest first
}

// NewServer starts a server that ends with the test, with a user who may do everything with the access key.
func NewServer(t testing.TB, id, secret, token string) *Server {
	s := &Server{Issuer: issuertest.New(), parameters: map[string][]string{}}
	s.AddKey(servertest.Key{ID: id, Secret: secret, Token: token, Principal: "user"})
	s.Allow("user", "*", "*")
	s.URL = servertest.Serve(t, false, s.serve).URL
	s.Node = servertest.Serve(t, false, s.serveNode).Listener.Addr().String()
	return s
}

// Put adds a version and returns its number.
func (s *Server) Put(name, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parameters[name] = append(s.parameters[name], value)
	return strconv.Itoa(len(s.parameters[name]))
}

// Delete removes a parameter.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.parameters, name)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return
	}
	if r.Header.Get("x-acs-version") == "2015-04-01" {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			refuse(w, http.StatusBadRequest, "InvalidParameter", "form")
			return
		}
		s.serveSTS(w, r, form)
		return
	}
	principal, code, status := s.authenticate(r, body)
	if code != "" {
		refuse(w, status, code, "the signature is not valid")
		return
	}
	if r.Header.Get("x-acs-version") != "2019-06-01" || r.URL.Query().Get("RegionId") == "" {
		refuse(w, http.StatusBadRequest, "InvalidParameter", "version or region")
		return
	}
	c := servertest.Call{Action: r.Header.Get("x-acs-action"), Name: r.URL.Query().Get("Name"), Principal: principal}
	fault := s.Note(c)
	s.mu.Lock()
	out, code, status := s.do(c.Action, r.URL.Query())
	s.mu.Unlock()
	switch {
	case fault != nil:
		s.fail(w, r, *fault, fmt.Sprint(out))
	case !s.May(c):
		refuse(w, http.StatusForbidden, "Forbidden.RAM", fmt.Sprint(out))
	case code != "":
		refuse(w, status, code, c.Name)
	default:
		answer(w, out)
	}
}

// fail answers with a fault. The text holds what the answer would have been.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, f servertest.Fault, text string) {
	if !f.Break(w, r, `{"Parameter":{"Value":"`, text) {
		refuse(w, f.Status, f.Code, text)
	}
}

const pageSize = 50

func (s *Server) do(action string, q url.Values) (out map[string]any, code string, status int) {
	switch action {
	case "GetSecretParameter":
		values := s.parameters[q.Get("Name")]
		n := len(values)
		if v := q.Get("ParameterVersion"); v != "" {
			var err error
			if n, err = strconv.Atoi(v); err != nil {
				return nil, "InvalidParameter", http.StatusBadRequest
			}
		}
		if n < 1 || n > len(values) {
			return nil, "EntityNotExists.Parameter", http.StatusNotFound
		}
		if q.Get("WithDecryption") != "true" {
			return nil, "InvalidParameter", http.StatusBadRequest
		}
		return map[string]any{"Parameter": map[string]any{"Name": q.Get("Name"), "Type": "Secret", "Value": values[n-1], "ParameterVersion": n}}, "", 0
	case "GetSecretParametersByPath":
		return s.list(q)
	default:
		return nil, "InvalidAction.NotFound", http.StatusNotFound
	}
}

func (s *Server) list(q url.Values) (out map[string]any, code string, status int) {
	if q.Get("Recursive") != "true" || q.Get("Path") == "" {
		return nil, "InvalidParameter", http.StatusBadRequest
	}
	var names []string
	for name := range s.parameters {
		if strings.HasPrefix("/"+strings.TrimPrefix(name, "/"), q.Get("Path")) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	start, _ := strconv.Atoi(q.Get("NextToken"))
	end := min(start+pageSize, len(names))
	page := []any{}
	for _, name := range names[min(start, len(names)):end] {
		page = append(page, map[string]any{"Name": name, "Type": "Secret"})
	}
	out = map[string]any{"Parameters": page, "TotalCount": len(names)}
	if end < len(names) {
		out["NextToken"] = strconv.Itoa(end)
	}
	return out, "", 0
}

var authorization = regexp.MustCompile(`^ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([a-z0-9;-]+),Signature=([0-9a-f]{64})$`)

// authenticate returns who signed a request, or code and status of what is wrong with the signature. Source:
// https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature.
func (s *Server) authenticate(r *http.Request, body []byte) (principal, code string, status int) {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	at, err := time.Parse(time.RFC3339, r.Header.Get("x-acs-date"))
	if m == nil || err != nil || r.Header.Get("x-acs-signature-nonce") == "" || r.Header.Get("x-acs-content-sha256") != sum(string(body)) {
		return "", "IncompleteSignature", http.StatusBadRequest
	}
	k, known := s.Key(m[1])
	switch {
	case !known:
		return "", "InvalidAccessKeyId.NotFound", http.StatusNotFound
	case r.Header.Get("x-acs-security-token") != k.Token:
		return "", "InvalidSecurityToken.Malformed", http.StatusBadRequest
	case k.Expired():
		return "", "InvalidSecurityToken.Expired", http.StatusBadRequest
	case s.Since(at).Abs() > 15*time.Minute:
		return "", "InvalidTimeStamp.Expired", http.StatusBadRequest
	}
	var headers strings.Builder
	for _, name := range strings.Split(m[2], ";") {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" {
			value = r.Host
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	canonical := fmt.Sprintf("%s\n/\n%s\n%s\n%s\n%s", r.Method, query, headers.String(), m[2], sum(string(body)))
	h := hmac.New(sha256.New, []byte(k.Secret))
	h.Write([]byte("ACS3-HMAC-SHA256\n" + sum(canonical)))
	if hex.EncodeToString(h.Sum(nil)) != m[3] {
		return "", "SignatureDoesNotMatch", http.StatusBadRequest
	}
	return k.Principal, "", 0
}

func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

func answer(w http.ResponseWriter, out map[string]any) {
	out["RequestId"] = "request-1"
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	_ = json.NewEncoder(w).Encode(out)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"Code": code, "Message": message, "RequestId": "request-1"})
}
