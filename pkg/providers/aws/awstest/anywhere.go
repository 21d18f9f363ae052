package awstest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

var anywhereAuthorization = regexp.MustCompile(`^AWS4-X509-ECDSA-SHA256 Credential=(\d+)/(\d{8})/([^/]+)/rolesanywhere/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]+)$`)

// anchor is a trust anchor of Roles Anywhere.
type anchor struct {
	arn, profile string
	roots        *x509.CertPool
}

// TrustAnchor lets certificates of a CA assume roles that trust their common name, and returns the ARNs of the trust
// anchor and of the profile.
func (s *Server) TrustAnchor(ca *x509.Certificate) (arn, profile string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := anchor{
		arn:     "arn:aws:rolesanywhere:" + s.region + ":" + Account + ":trust-anchor/1",
		profile: "arn:aws:rolesanywhere:" + s.region + ":" + Account + ":profile/1",
		roots:   x509.NewCertPool(),
	}
	a.roots.AddCert(ca)
	s.anchors = append(s.anchors, a)
	return a.arn, a.profile
}

// serveAnywhere does CreateSession.
func (s *Server) serveAnywhere(w http.ResponseWriter, r *http.Request, body []byte, now time.Time) {
	var in struct {
		TrustAnchorArn, ProfileArn, RoleArn, RoleSessionName string //nolint:revive // AWS' spelling
		DurationSeconds                                      int
	}
	given, err := func() (*session, error) {
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, refuse("ValidationException", "%v", err)
		}
		leaf, err := verifyX509(r, body, s.region, now)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		anchors := s.anchors
		s.mu.Unlock()
		for _, a := range anchors {
			if a.arn != in.TrustAnchorArn || a.profile != in.ProfileArn {
				continue
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				return nil, refuse("AccessDeniedException", "Untrusted certificate")
			}
			return s.assume(in.RoleArn, leaf.Subject.CommonName)
		}
		return nil, refuse("AccessDeniedException", "no such trust anchor and profile")
	}()
	s.mu.Lock()
	_ = s.note(Call{Action: "rolesanywhere:CreateSession", Names: []string{in.RoleArn}})
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": err.(*failure).message})
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"credentialSet": []any{map[string]any{"credentials": map[string]any{
		"accessKeyId": given.AccessKeyId, "secretAccessKey": given.SecretAccessKey, "sessionToken": given.SessionToken,
		"expiration": given.Expiration,
	}}}})
}

// verifyX509 checks a signature made with a certificate's key and returns the certificate.
func verifyX509(r *http.Request, body []byte, region string, now time.Time) (*x509.Certificate, error) {
	m := anywhereAuthorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return nil, refuse("AccessDeniedException", "no signature")
	}
	der, err := base64.StdEncoding.DecodeString(r.Header.Get("X-Amz-X509"))
	if err != nil {
		return nil, refuse("AccessDeniedException", "X-Amz-X509")
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, refuse("AccessDeniedException", "X-Amz-X509")
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse(signingDate, date)
	if err != nil || now.Sub(at).Abs() > 5*time.Minute || !strings.HasPrefix(date, m[2]) || m[3] != region || m[1] != leaf.SerialNumber.String() {
		return nil, refuse("AccessDeniedException", "the signature is not for this")
	}
	text := strings.Join([]string{
		"AWS4-X509-ECDSA-SHA256", date, fmt.Sprintf("%s/%s/rolesanywhere/aws4_request", m[2], m[3]), sum(canonical(r, m[4], body)),
	}, "\n")
	digest := sha256.Sum256([]byte(text))
	signature, err := hex.DecodeString(m[5])
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); err != nil || !ok || !ecdsa.VerifyASN1(public, digest[:], signature) {
		return nil, refuse("AccessDeniedException", "Invalid signature")
	}
	return leaf, nil
}
