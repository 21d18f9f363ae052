// Package tencenttest is a fake of Tencent Cloud on loopback: Secrets Manager (API 3.0, signature TC3-HMAC-SHA256), STS and a
// node's metadata service.
//
// It computes every signature again, checks web identity tokens, lets callers do what they were allowed, refuses calls and
// parameters that it does not know, and puts the secret that was asked for into its error messages. Failures can be injected,
// calls are counted.
package tencenttest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Record // of calls such as "GetSecretValue", "AssumeRoleWithWebIdentity", "node"
	servertest.Grants // to the user "user" and to roles
	servertest.Keys

	URL    string             // of Secrets Manager and STS
	Node   string             // HOST:PORT of the metadata service
	Issuer *issuertest.Issuer // of the tokens that Provider trusts

	mu      sync.Mutex
	node    string               // name of the node's role; empty: none
	secrets map[string][]version // oldest first
}

type version struct {
	id, value string
	binary    bool
}

// NewServer starts a server that ends with the test, with a user who may do everything with the keys.
func NewServer(t testing.TB, id, secret, token string) *Server {
	s := &Server{Issuer: issuertest.New(), secrets: map[string][]version{}}
	s.AddKey(servertest.Key{ID: id, Secret: secret, Token: token, Principal: "user"})
	s.Allow("user", "*", "*")
	s.URL = servertest.Serve(t, false, s.serve).URL
	s.Node = servertest.Serve(t, false, s.serveNode).Listener.Addr().String()
	return s
}

// Put adds a version, which is then in use, and returns its id.
func (s *Server) Put(name, value string, binary bool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := "v" + strconv.Itoa(len(s.secrets[name])+1) + ".0"
	s.secrets[name] = append(s.secrets[name], version{id, value, binary})
	return id
}

// Delete removes a secret.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets, name)
}

type parameters struct {
	SecretName, VersionId string //nolint:revive // Tencent's spelling
	Offset, Limit, State  int
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return
	}
	if r.Header.Get("X-TC-Version") == "2018-08-13" {
		s.serveSTS(w, r, body)
		return
	}
	principal, code := s.authenticate(r, body)
	if code != "" {
		refuse(w, code, "the signature is not valid")
		return
	}
	var in parameters
	if err := decode(body, &in); err != nil || r.Header.Get("X-TC-Version") != "2019-09-23" {
		refuse(w, "UnknownParameter", fmt.Sprint(err))
		return
	}
	c := servertest.Call{Action: r.Header.Get("X-TC-Action"), Name: in.SecretName, Principal: principal}
	fault := s.Note(c)
	s.mu.Lock()
	out, code := s.do(c.Action, in)
	s.mu.Unlock()
	switch {
	case fault != nil:
		fail(w, r, *fault, fmt.Sprint(out))
	case !s.May(c):
		refuse(w, "UnauthorizedOperation", fmt.Sprint(out))
	case code != "":
		refuse(w, code, in.SecretName)
	default:
		answer(w, out)
	}
}

// decode reads a request's parameters, all of which are known.
func decode(body []byte, in any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	return dec.Decode(in)
}

func (s *Server) do(action string, in parameters) (map[string]any, string) {
	switch action {
	case "GetSecretValue":
		versions := s.secrets[in.SecretName]
		i := len(versions) - 1
		if in.VersionId == "" {
			return nil, "MissingParameter"
		}
		if in.VersionId != "SSM_Current" {
			i = slices.IndexFunc(versions, func(v version) bool { return v.id == in.VersionId })
		}
		if i < 0 {
			return nil, "ResourceNotFound"
		}
		v := versions[i]
		out := map[string]any{"SecretName": in.SecretName, "VersionId": v.id, "SecretString": v.value, "SecretBinary": ""}
		if v.binary {
			out["SecretString"], out["SecretBinary"] = "", base64.StdEncoding.EncodeToString([]byte(v.value))
		}
		return out, ""
	case "ListSecrets":
		if in.Limit < 1 || in.Limit > 200 || in.State != 1 {
			return nil, "InvalidParameterValue"
		}
		var names []string
		for name := range s.secrets {
			names = append(names, name)
		}
		slices.Sort(names)
		slices.Reverse(names)
		page := []any{}
		for _, name := range names[min(in.Offset, len(names)):min(in.Offset+in.Limit, len(names))] {
			page = append(page, map[string]any{"SecretName": name, "Status": "Enabled"})
		}
		return map[string]any{"TotalCount": len(names), "SecretMetadatas": page}, ""
	default:
		return nil, "InvalidAction"
	}
}

var authorization = regexp.MustCompile(`^TC3-HMAC-SHA256 Credential=([^/]+)/(\d{4}-\d\d-\d\d)/ssm/tc3_request, SignedHeaders=content-type;host, Signature=([0-9a-f]{64})$`)

// authenticate returns who signed a request, or the code of what is wrong with the signature. Source:
// https://cloud.tencent.com/document/api/1140/40516.
func (s *Server) authenticate(r *http.Request, body []byte) (principal, code string) {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	seconds, err := strconv.ParseInt(r.Header.Get("X-TC-Timestamp"), 10, 64)
	if m == nil || r.Method != http.MethodPost || err != nil {
		return "", "AuthFailure.InvalidAuthorization"
	}
	k, known := s.Key(m[1])
	switch at := time.Unix(seconds, 0).UTC(); {
	case !known:
		return "", "AuthFailure.SecretIdNotFound"
	case r.Header.Get("X-TC-Token") != k.Token || k.Expired():
		return "", "AuthFailure.TokenFailure"
	case s.Since(at).Abs() > 5*time.Minute || at.Format("2006-01-02") != m[2]:
		return "", "AuthFailure.SignatureExpire"
	}
	canonical := fmt.Sprintf("POST\n/\n\ncontent-type:%s\nhost:%s\n\ncontent-type;host\n%s", r.Header.Get("Content-Type"), r.Host, sum(string(body)))
	text := fmt.Sprintf("TC3-HMAC-SHA256\n%d\n%s/ssm/tc3_request\n%s", seconds, m[2], sum(canonical))
	derived := []byte("TC3" + k.Secret)
	for _, part := range []string{m[2], "ssm", "tc3_request"} {
		derived = mac(derived, part)
	}
	if hex.EncodeToString(mac(derived, text)) != m[3] {
		return "", "AuthFailure.SignatureFailure"
	}
	return k.Principal, ""
}

func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func answer(w http.ResponseWriter, out map[string]any) {
	out["RequestId"] = "request-1"
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"Response": out})
}

func refuse(w http.ResponseWriter, code, message string) {
	answer(w, map[string]any{"Error": map[string]string{"Code": code, "Message": message}})
}

// fail answers with a fault, which has a code unless something before the service failed. The text holds what the answer
// would have been.
func fail(w http.ResponseWriter, r *http.Request, f servertest.Fault, text string) {
	switch {
	case f.Break(w, r, `{"Response":{"SecretString":"`, text):
	case f.Code != "":
		refuse(w, f.Code, text) // with status 200, as Tencent does
	default:
		http.Error(w, text, f.Status)
	}
}
