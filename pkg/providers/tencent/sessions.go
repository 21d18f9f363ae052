package tencent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// What a service account says about the role of its pods. Source: https://www.tencentcloud.com/document/product/457/57285.
const roleAnnotation = "tke.cloud.tencent.com/role-arn"

// STS. Source: https://cloud.tencent.com/document/api/1312/73070.
const (
	stsService  = "sts"
	stsVersion  = "2018-08-13"
	stsAction   = "AssumeRoleWithWebIdentity"
	sessionLife = 7200 // seconds, the default
)

// sessions gives what reads are made with: one client for the agent, or one for each service account.
type sessions struct {
	settings
	*exchange.Cache[*common.Client]
	transport *http.Transport
	node      connect.Node
	accounts  providers.ServiceAccounts
}

func newSessions(s settings, cfg providers.Config, dial connect.Dialer) *sessions {
	all := &sessions{settings: s, transport: connect.Transport(dial), node: connect.NewNode(dial, nodeURL), accounts: cfg.ServiceAccounts}
	switch {
	case cfg.Identity == providers.AsPod:
		all.Cache = exchange.New(all.assume)
	case s.given.id == "":
		all.Cache = exchange.NewShared(all.login)
	default:
		k := common.NewTokenCredential(s.given.id, s.given.key, s.given.token)
		all.Cache = exchange.Fixed(all.client(k, s.region, service, s.endpoint))
	}
	return all
}

// client returns a client for a service at endpoint or, if that is nil, at Tencent's own address.
func (s *sessions) client(k common.CredentialIface, region, service string, endpoint *url.URL) *common.Client {
	settings := profile.NewClientProfile()
	settings.HttpProfile.Endpoint = service + ".tencentcloudapi.com"
	if endpoint != nil {
		settings.HttpProfile.Scheme, settings.HttpProfile.Endpoint = endpoint.Scheme, endpoint.Host
	}
	client := common.NewCommonClient(k, region, settings)
	client.WithHttpTransport(stay{s.transport})
	return client
}

// stay keeps requests where they were meant for: the SDK's client can't be told not to follow a redirect, and would take the
// header with the token along.
type stay struct{ next http.RoundTripper }

// RoundTrip sends r, and leaves out of the answer where else to ask.
func (s stay) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(r)
	if err == nil {
		resp.Header.Del("Location")
	}
	return resp, err
}

// assume exchanges the token of q's pod for a session of its role.
func (s *sessions) assume(ctx context.Context, q providers.Query) (*common.Client, time.Time, error) {
	role, err := s.roleOf(ctx, q)
	if err != nil {
		return nil, time.Time{}, err
	}
	token, err := exchange.Token(ctx, q, s.audience)
	if err != nil {
		return nil, time.Time{}, err
	}
	return s.session(ctx, s.region, s.oidcProvider, role, token, exchange.SessionName(q))
}

// roleOf returns the ARN of the role of q's caller.
func (s *sessions) roleOf(ctx context.Context, q providers.Query) (string, error) {
	role, _, err := exchange.Role{Accounts: s.accounts, Annotation: roleAnnotation, Property: "roleArn", Default: s.role}.Of(ctx, q)
	if err == nil && !providers.ConsistsOf(role, 256, ":/-_.") {
		err = providers.Errorf(providers.Denied, "annotation %s of service account %s/%s, or roleArn, is not the ARN of a role", roleAnnotation, q.Caller.Namespace, q.Caller.ServiceAccount)
	}
	return role, err
}

// login returns a client with what the platform gives the agent: a role by TKE's OIDC, which is in its environment, or the
// role of its node. The names are those of Tencent's SDK.
func (s *sessions) login(ctx context.Context, _ providers.Query) (*common.Client, time.Time, error) {
	region, provider, role, file := os.Getenv("TKE_REGION"), os.Getenv("TKE_PROVIDER_ID"), os.Getenv("TKE_ROLE_ARN"), os.Getenv("TKE_WEB_IDENTITY_TOKEN_FILE")
	if region == "" || provider == "" || role == "" || file == "" {
		return s.ofNode(ctx)
	}
	token, err := providers.ReadCredential("TKE_WEB_IDENTITY_TOKEN_FILE", file)
	if err != nil {
		return nil, time.Time{}, err
	}
	return s.session(ctx, region, provider, role, string(token.Reveal()), "keywell")
}

type sessionAnswer struct {
	*tchttp.BaseResponse
	Response struct {
		Credentials credentials
		ExpiredTime int64
	}
}

// credentials are what STS and a node's metadata service give.
type credentials struct{ TmpSecretId, TmpSecretKey, Token string } //nolint:revive // Tencent's spelling

// session asks STS for a session.
func (s *sessions) session(ctx context.Context, region, provider, role, token, name string) (*common.Client, time.Time, error) {
	request := tchttp.NewCommonRequest(stsService, stsVersion, stsAction)
	request.SetSkipSign(true)
	request.SetContext(ctx)
	err := request.SetActionParameters(map[string]any{
		"ProviderId": provider, "WebIdentityToken": token, "RoleArn": role, "RoleSessionName": name, "DurationSeconds": sessionLife,
	})
	answer := &sessionAnswer{BaseResponse: &tchttp.BaseResponse{}}
	if err == nil {
		err = s.client(nil, region, stsService, s.sts).Send(request, answer)
	}
	if err != nil {
		return nil, time.Time{}, exchange.Refused(failed(ctx, stsService+":"+stsAction+" of "+role, err))
	}
	return s.with(answer.Response.Credentials, answer.Response.ExpiredTime)
}

// with returns a client with temporary keys.
func (s *sessions) with(c credentials, expires int64) (*common.Client, time.Time, error) {
	if c.TmpSecretId == "" || c.TmpSecretKey == "" || c.Token == "" {
		return nil, time.Time{}, providers.Errorf(providers.Unavailable, "no usable credentials in the answer")
	}
	k := common.NewTokenCredential(c.TmpSecretId, c.TmpSecretKey, c.Token)
	return s.client(k, s.region, service, s.endpoint), time.Unix(expires, 0), nil
}

// The metadata service of a node. Source: https://cloud.tencent.com/document/product/213/4934.
const (
	nodeURL   = "http://metadata.tencentyun.com/latest/"
	nodeRoles = "meta-data/cam/security-credentials/"
)

// ofNode returns a client with the role of the node.
func (s *sessions) ofNode(ctx context.Context) (*common.Client, time.Time, error) {
	role, err := s.node.Ask(ctx, http.MethodGet, nodeRoles, nil)
	if err != nil {
		return nil, time.Time{}, noLogin(err)
	}
	given, err := s.node.Ask(ctx, http.MethodGet, nodeRoles+url.PathEscape(role), nil)
	if err != nil {
		return nil, time.Time{}, noLogin(err)
	}
	var answer struct {
		credentials
		ExpiredTime int64
	}
	if err := json.Unmarshal([]byte(given), &answer); err != nil {
		return nil, time.Time{}, noLogin(providers.Errorf(providers.Unavailable, "the node's metadata service: no usable answer"))
	}
	return s.with(answer.credentials, answer.ExpiredTime)
}

// noLogin adds to what a node said how else the agent could log in.
func noLogin(err error) error {
	return providers.Errorf(providers.KindOf(err), "no credentials of the agent: set secretId and secretKey, give it a role by TKE's OIDC, or give its node a CAM role: %w", err)
}
