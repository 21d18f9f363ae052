package huaweitest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywell/keywell/internal/servertest"
)

// Provider is the identity provider that trusts Issuer, and Audience the client ID by which that knows IAM.
const (
	Provider = "cluster"
	Audience = "keywell"
)

type key struct {
	secret, token, principal string
	expires                  time.Time // zero: never
}

// subject is who has a token, and for which project.
type subject struct {
	principal, project string
	expires            time.Time
}

// Key makes a key of a principal, with a token if it is temporary.
func (s *Server) Key(id, secret, token, principal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = key{secret: secret, token: token, principal: principal}
}

// Agency gives the machine an agency, whose metadata service knows no tokens if old.
func (s *Server) Agency(principal string, old bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agency, s.oldIMDS = principal, old
}

// Lifetime sets how long is valid what the fake gives from now on.
func (s *Server) Lifetime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life = d
}

// Revoke makes every token and every key of the machine's invalid that the fake has given.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
	maps.DeleteFunc(s.keys, func(_ string, k key) bool { return !k.expires.IsZero() })
}

var authorization = regexp.MustCompile(`^SDK-HMAC-SHA256 Access=([^,]+), SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$`)

// authenticate returns who made a request.
func (s *Server) authenticate(r *http.Request) (subject, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Add(s.skew)
	if token := r.Header.Get("X-Auth-Token"); token != "" {
		who, ok := s.tokens[token]
		if !ok || now.After(who.expires) || r.Header.Get("Authorization") != "" {
			return subject{}, errors.New("decrypt token fail: " + token)
		}
		return who, nil
	}
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return subject{}, errors.New("no authorization")
	}
	k, ok := s.keys[m[1]]
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Sdk-Date"))
	signed := strings.Split(m[2], ";")
	switch {
	case !ok || !k.expires.IsZero() && now.After(k.expires) || k.token != r.Header.Get("X-Security-Token"):
		return subject{}, errors.New("get secretKey failed: " + m[1])
	case err != nil || now.Sub(at).Abs() > 15*time.Minute:
		return subject{}, errors.New("x-sdk-date expired")
	case !slices.Contains(signed, "x-sdk-date") || k.token != "" && !slices.Contains(signed, "x-security-token"):
		return subject{}, errors.New("not all is signed")
	case signature(r, signed, k.secret) != m[3]:
		return subject{}, errors.New("verify aksk signature fail")
	}
	return subject{principal: k.principal}, nil
}

// signature computes the signature of a request without a body. Source:
// https://support.huaweicloud.com/intl/en-us/devg-apisign/api-sign-algorithm.html.
func signature(r *http.Request, signed []string, secret string) string {
	headers := ""
	for _, name := range signed {
		headers += name + ":" + strings.TrimSpace(r.Header.Get(name)) + "\n"
	}
	var query []string
	for name, values := range r.URL.Query() {
		for _, v := range values {
			query = append(query, url.QueryEscape(name)+"="+url.QueryEscape(v))
		}
	}
	slices.Sort(query)
	canonical := strings.Join([]string{
		r.Method, strings.TrimSuffix(r.URL.EscapedPath(), "/") + "/", strings.Join(query, "&"), headers, strings.Join(signed, ";"), sum(""),
	}, "\n")
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte("SDK-HMAC-SHA256\n" + r.Header.Get("X-Sdk-Date") + "\n" + sum(canonical)))
	return hex.EncodeToString(h.Sum(nil))
}

func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

func (s *Server) serveIAM(w http.ResponseWriter, r *http.Request) {
	s.date(w)
	action := map[string]string{"POST /v3.0/OS-AUTH/id-token/tokens": "exchange", "GET /v3/projects": "projects"}[r.Method+" "+r.URL.Path]
	fault := s.Note(servertest.Call{Action: action, Name: r.URL.Query().Get("name")})
	switch {
	case fault != nil && fault.Break(w, r, `{"token":{`, r.Header.Get("X-Idp-Id")+"c4n4ry"):
	case fault != nil:
		refuseIAM(w, fault.Status, "c4n4ry")
	case action == "exchange":
		s.exchange(w, r)
	case action == "projects":
		s.projects(w, r)
	default:
		refuseIAM(w, http.StatusNotFound, r.URL.String())
	}
}

// exchange makes a pod's token one of a project. Every subject of the provider becomes the principal of its name.
func (s *Server) exchange(w http.ResponseWriter, r *http.Request) {
	type named struct{ ID, Name string }
	var in struct {
		Auth struct {
			IDToken struct{ ID string } `json:"id_token"`
			Scope   struct{ Project named }
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err != nil || dec.Decode(&in) != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || r.Header.Get("Authorization") != "" {
		refuseIAM(w, http.StatusBadRequest, "Request body is invalid: "+string(body))
		return
	}
	project := in.Auth.Scope.Project
	who, err := s.Issuer.Verify(in.Auth.IDToken.ID, Audience)
	switch {
	case r.Header.Get("X-Idp-Id") != Provider:
		refuseIAM(w, http.StatusNotFound, "Could not find the identity provider")
	case err != nil:
		refuseIAM(w, http.StatusUnauthorized, err.Error()+": "+in.Auth.IDToken.ID)
	case project != named{ID: Project} && project != named{Name: Region}:
		refuseIAM(w, http.StatusForbidden, "the project is not available")
	default:
		s.mu.Lock()
		token, expires := "MIIc4n4ry-token-"+strconv.Itoa(len(s.tokens))+who, time.Now().Add(s.life)
		s.tokens[token] = subject{who, Project, expires}
		s.mu.Unlock()
		w.Header().Set("X-Subject-Token", token)
		answer(w, http.StatusCreated, map[string]any{"token": map[string]any{
			"expires_at": expires.UTC().Format("2006-01-02T15:04:05.000000Z"), "methods": []string{"mapped"},
			"project": map[string]any{"id": Project, "name": Region, "domain": map[string]any{"id": "d78cbac1", "name": "domain"}},
		}})
	}
}

func (s *Server) projects(w http.ResponseWriter, r *http.Request) {
	if _, err := s.authenticate(r); err != nil {
		refuse(w, http.StatusUnauthorized, "APIGW.0301", "Incorrect IAM authentication information: "+err.Error())
		return
	}
	all := []any{}
	if r.URL.Query().Get("name") == Region {
		all = append(all, map[string]any{"id": Project, "name": Region, "enabled": true})
	}
	answer(w, http.StatusOK, map[string]any{"projects": all, "links": map[string]any{}})
}

// serveMachine is the metadata service.
func (s *Server) serveMachine(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	agency, old := s.agency, s.oldIMDS
	s.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "PUT /meta-data/latest/api/token":
		if seconds, err := strconv.Atoi(r.Header.Get("X-Metadata-Token-Ttl-Seconds")); old || err != nil || seconds < 1 || seconds > 21600 {
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		_, _ = io.WriteString(w, "metadata-token")
	case "GET /openstack/latest/securitykey":
		s.Note(servertest.Call{Action: "machine"})
		if agency == "" || !old && r.Header.Get("X-Metadata-Token") != "metadata-token" {
			http.Error(w, "Please configure Cloud Service Agency first", http.StatusUnauthorized)
			return
		}
		s.mu.Lock()
		id, expires := "HST"+strconv.Itoa(len(s.keys)), time.Now().Add(s.life)
		s.keys[id] = key{"c4n4ry-of-machine", "c4n4ry-token-of-machine", agency, expires}
		s.mu.Unlock()
		answer(w, http.StatusOK, map[string]any{"credential": map[string]any{
			"access": id, "secret": "c4n4ry-of-machine", "securitytoken": "c4n4ry-token-of-machine", "expires_at": expires.UTC().Format("2006-01-02T15:04:05.000000Z"),
		}})
	default:
		http.NotFound(w, r)
	}
}

// date says what the fake's clock does.
func (s *Server) date(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(s.skew).UTC().Format(http.TimeFormat))
}

func answer(w http.ResponseWriter, status int, out any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "request-1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out)
}

func refuse(w http.ResponseWriter, status int, code, text string) {
	answer(w, status, map[string]string{"error_code": code, "error_msg": text})
}

func refuseIAM(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]any{"error": map[string]any{"code": status, "message": fmt.Sprint(text), "title": http.StatusText(status)}})
}
