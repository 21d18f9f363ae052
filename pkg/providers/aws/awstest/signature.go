package awstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$`)

const signingDate = "20060102T150405Z"

// authenticate computes the signature of a request again and returns who made it. Source:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
func (s *Server) authenticate(r *http.Request, body []byte, service string, now time.Time) (string, error) {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return "", refuse("MissingAuthenticationToken", "no signature")
	}
	id, date, region, of, headers, signature := m[1], m[2], m[3], m[4], m[5], m[6]
	s.mu.Lock()
	k, known := s.keys[id]
	s.mu.Unlock()
	at, err := time.Parse(signingDate, r.Header.Get("X-Amz-Date"))
	switch {
	case err != nil || !strings.HasPrefix(r.Header.Get("X-Amz-Date"), date):
		return "", refuse("IncompleteSignature", "X-Amz-Date")
	case !known:
		return "", refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	case region != s.region || of != service:
		return "", refuse("InvalidSignatureException", "Credential should be scoped to %s/%s, not %s/%s", s.region, service, region, of)
	case !slices.Contains(strings.Split(headers, ";"), "host") || !slices.Contains(strings.Split(headers, ";"), "x-amz-date"):
		return "", refuse("InvalidSignatureException", "host and x-amz-date must be signed")
	case r.Header.Get("X-Amz-Security-Token") != k.session:
		return "", refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	case now.Sub(at) > 5*time.Minute:
		return "", refuse("InvalidSignatureException", "Signature expired: %s is now earlier than %s", at, now)
	case at.Sub(now) > 5*time.Minute:
		return "", refuse("InvalidSignatureException", "Signature not yet current: %s is still later than %s", at, now)
	case !k.expires.IsZero() && time.Now().After(k.expires):
		return "", refuse("ExpiredTokenException", "The security token included in the request is expired")
	}
	scope := strings.Join([]string{date, region, of, "aws4_request"}, "/")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope, sum(canonical(r, headers, body))}, "\n")
	signing := []byte("AWS4" + k.secret)
	for _, part := range []string{date, region, of, "aws4_request"} {
		signing = mac(signing, part)
	}
	if want := hex.EncodeToString(mac(signing, text)); signature != want {
		return "", refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
	}
	return k.principal, nil
}

// canonical is the form of a request that is signed. No request here has a query.
func canonical(r *http.Request, headers string, body []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n\n", r.Method, r.URL.EscapedPath())
	for _, name := range strings.Split(headers, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&b, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	fmt.Fprintf(&b, "\n%s\n%s", headers, sum(string(body)))
	return b.String()
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
