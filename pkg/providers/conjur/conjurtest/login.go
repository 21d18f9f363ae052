package conjurtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The authenticator of service-account tokens, and the audience that it demands.
const (
	ServiceID = "prod/cluster"
	Audience  = "conjur"
)

// serveKey is POST /authn/ACCOUNT/LOGIN/authenticate with an API key.
func (s *Server) serveKey(w http.ResponseWriter, r *http.Request, login string) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	s.mu.Lock()
	key, known := s.keys[login]
	s.mu.Unlock()
	if r.Header.Get("Content-Type") != "text/plain" || !known || key != string(body) {
		refuse(w, http.StatusUnauthorized, "no such key: "+string(body))
		return
	}
	_, _ = io.WriteString(w, s.issue(login))
}

// serveJWT is POST /authn-jwt/SERVICE/ACCOUNT[/LOGIN]/authenticate with a service account's token.
func (s *Server) serveJWT(w http.ResponseWriter, r *http.Request, service, login string) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	form, err := url.ParseQuery(string(body))
	if err != nil || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || len(form) != 1 || form.Get("jwt") == "" {
		refuse(w, http.StatusBadRequest, string(body))
		return
	}
	subject, err := s.Issuer.Verify(form.Get("jwt"), Audience)
	s.mu.Lock()
	trusted, known := s.subjects[subject]
	s.mu.Unlock()
	if err != nil || service != ServiceID || !known || login != "" && login != trusted {
		refuse(w, http.StatusUnauthorized, "CONJ00016E Token refused: "+form.Get("jwt"))
		return
	}
	_, _ = io.WriteString(w, s.issue(trusted))
}

type claims struct {
	Sub string `json:"sub"`
	Iat int64  `json:"iat"`
	Exp int64  `json:"exp,omitempty"`
}

// issue makes an access token.
func (s *Server) issue(login string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := claims{Sub: login, Iat: time.Now().Add(s.skew).Unix()}
	if s.life != 0 {
		c.Exp = c.Iat + int64(s.life/time.Second)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	// No two tokens are alike, as with Conjur's salted signatures.
	protected := base64.URLEncoding.EncodeToString([]byte(`{"alg":"conjur.org/slosilo/v2","kid":"` + strconv.Itoa(len(s.issued)) + `"}`))
	encoded := base64.URLEncoding.EncodeToString(payload)
	token, err := json.Marshal(map[string]string{"protected": protected, "payload": encoded, "signature": s.sign(protected, encoded)})
	if err != nil {
		panic(err)
	}
	s.issued = append(s.issued, string(token))
	return string(token)
}

func (s *Server) sign(protected, payload string) string {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(protected + "." + payload))
	return base64.URLEncoding.EncodeToString(h.Sum(nil))
}

// authenticate returns whose access token a request has.
func (s *Server) authenticate(r *http.Request) (login string, ok bool) {
	encoded, prefixed := strings.CutPrefix(r.Header.Get("Authorization"), `Token token="`)
	encoded, quoted := strings.CutSuffix(encoded, `"`)
	token, err := base64.StdEncoding.DecodeString(encoded)
	var parts struct{ Protected, Payload, Signature string }
	if !prefixed || !quoted || err != nil || json.Unmarshal(token, &parts) != nil {
		return "", false
	}
	payload, err := base64.URLEncoding.DecodeString(parts.Payload)
	var c claims
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	expires := time.Unix(c.Exp, 0)
	if c.Exp == 0 {
		expires = time.Unix(c.Iat, 0).Add(8 * time.Minute)
	}
	valid := parts.Signature == s.sign(parts.Protected, parts.Payload) && time.Now().Add(s.skew).Before(expires) && !s.revoked[string(token)]
	return c.Sub, valid
}
