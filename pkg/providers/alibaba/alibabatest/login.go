package alibabatest

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/keywell/keywell/internal/servertest"
)

// The account, the OIDC provider of the cluster, and what the tokens that it takes are for.
const (
	Account  = "1234567890123456"
	Provider = "acs:ram::" + Account + ":oidc-provider/ack-rrsa-c1"
	Audience = "sts.aliyuncs.com"
)

// Role makes a role that the subjects of the provider's tokens may assume, and returns its ARN.
func (s *Server) Role(name string, subjects ...string) string {
	arn := "acs:ram::" + Account + ":role/" + name
	s.Trust(arn, subjects...)
	return arn
}

// NodeRole is the name of the role that the node has.
func (s *Server) NodeRole(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = name
}

// OldNode makes the metadata service one that knows no tokens.
func (s *Server) OldNode() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldNode = true
}

// describe is how STS and the node's metadata service give a key.
func describe(k servertest.Key) map[string]any {
	return map[string]any{
		"AccessKeyId": k.ID, "AccessKeySecret": k.Secret, "SecurityToken": k.Token, "Expiration": k.Expires.UTC().Format("2006-01-02T15:04:05Z"),
	}
}

var sessionName = regexp.MustCompile(`^[A-Za-z0-9.@_-]{2,64}$`)

// serveSTS does AssumeRoleWithOIDC. Source: https://api.aliyun.com/document/Sts/2015-04-01/AssumeRoleWithOIDC.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, form url.Values) {
	role := form.Get("RoleArn")
	if fault := s.Note(servertest.Call{Action: "AssumeRoleWithOIDC", Name: role}); fault != nil {
		s.fail(w, r, *fault, form.Encode())
		return
	}
	subject, err := s.Issuer.Verify(form.Get("OIDCToken"), Audience)
	seconds, _ := strconv.Atoi(form.Get("DurationSeconds"))
	known, trusted := s.Trusts(role, subject)
	switch {
	case r.Header.Get("Authorization") != "" || r.Header.Get("x-acs-action") != "AssumeRoleWithOIDC" || r.URL.RawQuery != "":
		refuse(w, http.StatusBadRequest, "InvalidParameter", "signed, or not in the body: "+r.URL.RawQuery)
	case seconds < 900 || seconds > 3600 || !sessionName.MatchString(form.Get("RoleSessionName")):
		refuse(w, http.StatusBadRequest, "InvalidParameter", "DurationSeconds or RoleSessionName")
	case form.Get("OIDCProviderArn") != Provider:
		refuse(w, http.StatusNotFound, "EntityNotExist.OIDCProvider", form.Get("OIDCProviderArn"))
	case err != nil && strings.Contains(err.Error(), "expired"):
		refuse(w, http.StatusBadRequest, "AuthenticationFail.OIDCToken.Expired", form.Get("OIDCToken"))
	case err != nil:
		refuse(w, http.StatusBadRequest, "AuthenticationFail.OIDCToken.Invalid", form.Get("OIDCToken"))
	case !known:
		refuse(w, http.StatusNotFound, "EntityNotExist.Role", role)
	case !trusted:
		refuse(w, http.StatusForbidden, "AuthenticationFail.NoPermission", subject)
	default:
		answer(w, map[string]any{"Credentials": describe(s.Session(role)), "AssumedRoleUser": map[string]any{"Arn": role + "/" + form.Get("RoleSessionName")}})
	}
}

const metadataToken = "AQAAAN-metadata" //nolint:gosec // a test's

// serveNode is the metadata service, in its hardened form.
func (s *Server) serveNode(w http.ResponseWriter, r *http.Request) {
	const roles = "/latest/meta-data/ram/security-credentials/"
	s.Note(servertest.Call{Action: "node", Name: r.URL.Path})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.oldNode && r.Method == http.MethodPut:
		http.NotFound(w, r)
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aliyun-ecs-metadata-token-ttl-seconds") != "":
		_, _ = fmt.Fprint(w, metadataToken)
	case r.Method != http.MethodGet || !s.oldNode && r.Header.Get("X-aliyun-ecs-metadata-token") != metadataToken:
		http.Error(w, "metadata token", http.StatusForbidden)
	case s.node == "":
		http.NotFound(w, r)
	case r.URL.Path == roles:
		_, _ = fmt.Fprintln(w, s.node)
	case r.URL.Path == roles+s.node:
		given := describe(s.Session("acs:ram::" + Account + ":role/" + s.node))
		given["Code"] = "Success"
		answer(w, given)
	default:
		http.NotFound(w, r)
	}
}
