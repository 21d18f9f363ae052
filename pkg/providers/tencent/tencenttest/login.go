package tencenttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/keywell/keywell/internal/servertest"
)

// The OIDC provider of the cluster, and what the tokens that it takes are for.
const (
	Provider = "cls-a1b2c3d4"
	Audience = "sts.cloud.tencent.com"
	account  = "qcs::cam::uin/100000000001:roleName/"
)

// Role makes a role that the subjects of the provider's tokens may assume, and returns its ARN.
func (s *Server) Role(name string, subjects ...string) string {
	s.Trust(account+name, subjects...)
	return account + name
}

// NodeRole gives the node a role, and returns its ARN.
func (s *Server) NodeRole(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = name
	return account + name
}

// describe is how STS and the node's metadata service give a key.
func describe(k servertest.Key) map[string]any {
	return map[string]any{"TmpSecretId": k.ID, "TmpSecretKey": k.Secret, "Token": k.Token}
}

type assumption struct {
	ProviderId, WebIdentityToken, RoleArn, RoleSessionName string //nolint:revive // Tencent's spelling
	DurationSeconds                                        int
}

var sessionName = regexp.MustCompile(`^[A-Za-z0-9=,.@_-]{2,128}$`)

// serveSTS does AssumeRoleWithWebIdentity. Source: https://cloud.tencent.com/document/api/1312/73070.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, body []byte) {
	var in assumption
	if err := decode(body, &in); err != nil {
		refuse(w, "UnknownParameter", err.Error())
		return
	}
	if fault := s.Note(servertest.Call{Action: "AssumeRoleWithWebIdentity", Name: in.RoleArn}); fault != nil {
		fail(w, r, *fault, fmt.Sprint(in))
		return
	}
	subject, err := s.Issuer.Verify(in.WebIdentityToken, Audience)
	known, trusted := s.Trusts(in.RoleArn, subject)
	switch {
	case r.Header.Get("Authorization") != "SKIP" || r.Header.Get("X-TC-Action") != "AssumeRoleWithWebIdentity" || r.Header.Get("X-TC-Region") == "":
		refuse(w, "InvalidParameter", "signed, or without a region")
	case in.DurationSeconds < 1 || in.DurationSeconds > 43200 || !sessionName.MatchString(in.RoleSessionName):
		refuse(w, "InvalidParameter.ParamError", "DurationSeconds or RoleSessionName")
	case in.ProviderId != Provider:
		refuse(w, "InvalidParameter.ParamError", in.ProviderId)
	case err != nil:
		refuse(w, "InvalidParameter.WebIdentityTokenError", in.WebIdentityToken)
	case !known:
		refuse(w, "ResourceNotFound.RoleNotFound", in.RoleArn)
	case !trusted:
		refuse(w, "UnauthorizedOperation", subject)
	default:
		k := s.Session(in.RoleArn)
		answer(w, map[string]any{"Credentials": describe(k), "ExpiredTime": k.Expires.Unix(), "Expiration": k.Expires.UTC().Format(time.RFC3339)})
	}
}

// serveNode is the metadata service.
func (s *Server) serveNode(w http.ResponseWriter, r *http.Request) {
	const roles = "/latest/meta-data/cam/security-credentials/"
	s.Note(servertest.Call{Action: "node", Name: r.URL.Path})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method != http.MethodGet || s.node == "":
		http.NotFound(w, r)
	case r.URL.Path == roles:
		_, _ = fmt.Fprint(w, s.node)
	case r.URL.Path == roles+s.node:
		k := s.Session(account + s.node)
		given := describe(k)
		given["ExpiredTime"], given["Code"] = k.Expires.Unix(), "Success"
		_ = json.NewEncoder(w).Encode(given)
	default:
		http.NotFound(w, r)
	}
}
