// Package tencenttest is a fake of Tencent Cloud's Secrets Manager (API 3.0, signature TC3-HMAC-SHA256) on loopback. It
// computes every signature again, refuses calls and parameters that it does not know, and puts the secret that was asked
// for into its error messages. Failures can be injected.
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

	"github.com/keywell/keywell/internal/servertest"
)

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Record

	URL string

	mu             sync.Mutex
	id, key, token string
	secrets        map[string][]version // oldest first
}

type version struct {
	id, value string
	binary    bool
}

// NewServer starts a server that ends with the test and takes requests signed with the keys.
func NewServer(t testing.TB, id, key, token string) *Server {
	s := &Server{id: id, key: key, token: token, secrets: map[string][]version{}}
	s.URL = servertest.Serve(t, false, s.serve).URL
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
	if code := s.authenticate(r, body); code != "" {
		refuse(w, code, "the signature is not valid")
		return
	}
	var in parameters
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || r.Header.Get("X-TC-Version") != "2019-09-23" {
		refuse(w, "UnknownParameter", fmt.Sprint(err))
		return
	}
	c := servertest.Call{Action: r.Header.Get("X-TC-Action"), Name: in.SecretName}
	fault := s.Note(c)
	s.mu.Lock()
	out, code := s.do(c.Action, in)
	s.mu.Unlock()
	switch {
	case fault != nil:
		fail(w, r, *fault, fmt.Sprint(out))
	case code != "":
		refuse(w, code, in.SecretName)
	default:
		answer(w, out)
	}
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

// authenticate returns the code of what is wrong with a signature. Source:
// https://cloud.tencent.com/document/api/1140/40516.
func (s *Server) authenticate(r *http.Request, body []byte) string {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	seconds, err := strconv.ParseInt(r.Header.Get("X-TC-Timestamp"), 10, 64)
	switch at := time.Unix(seconds, 0).UTC(); {
	case m == nil || r.Method != http.MethodPost || err != nil:
		return "AuthFailure.InvalidAuthorization"
	case m[1] != s.id:
		return "AuthFailure.SecretIdNotFound"
	case r.Header.Get("X-TC-Token") != s.token:
		return "AuthFailure.TokenFailure"
	case time.Since(at).Abs() > 5*time.Minute || at.Format("2006-01-02") != m[2]:
		return "AuthFailure.SignatureExpire"
	}
	canonical := fmt.Sprintf("POST\n/\n\ncontent-type:%s\nhost:%s\n\ncontent-type;host\n%s", r.Header.Get("Content-Type"), r.Host, sum(string(body)))
	text := fmt.Sprintf("TC3-HMAC-SHA256\n%d\n%s/ssm/tc3_request\n%s", seconds, m[2], sum(canonical))
	key := []byte("TC3" + s.key)
	for _, part := range []string{m[2], "ssm", "tc3_request"} {
		key = mac(key, part)
	}
	if hex.EncodeToString(mac(key, text)) != m[3] {
		return "AuthFailure.SignatureFailure"
	}
	return ""
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
