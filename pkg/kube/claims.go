package kube

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/secret"
)

// claims are what a service-account token says of itself. Nothing has verified them: they serve to refuse a token
// without asking the API server, never to accept one.
type claims struct {
	podUID  string    // empty: the token is not bound to a pod
	expires time.Time // zero: never
}

// parseClaims reads the claims of a service-account token, and reports whether it is one. Source: Kubernetes,
// pkg/serviceaccount/claims.go (KEP-1205).
func parseClaims(token secret.Value) (claims, bool) {
	parts := strings.Split(string(token.Reveal()), ".")
	if len(parts) != 3 {
		return claims{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}, false
	}
	var decoded struct {
		Expires    int64 `json:"exp"`
		Kubernetes *struct {
			Pod struct {
				UID string `json:"uid"`
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &decoded) != nil || decoded.Kubernetes == nil {
		return claims{}, false
	}
	c := claims{podUID: decoded.Kubernetes.Pod.UID}
	if decoded.Expires != 0 {
		c.expires = time.Unix(decoded.Expires, 0)
	}
	return c, true
}
