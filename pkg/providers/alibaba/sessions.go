package alibaba

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	"github.com/alibabacloud-go/darabonba-openapi/v2/utils"
	"github.com/alibabacloud-go/tea/dara"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// roleAnnotation is where a service account names the role of its pods. Source:
// https://www.alibabacloud.com/help/en/ack/ack-pod-identity-webhook.
const roleAnnotation = "pod-identity.alibabacloud.com/role-name"

// The two services. Source: https://api.aliyun.com/document/oos/2019-06-01/GetSecretParameter and
// https://api.aliyun.com/document/Sts/2015-04-01/AssumeRoleWithOIDC.
const (
	oosVersion = "2019-06-01"
	stsVersion = "2015-04-01"
)

// sessionLife is the longest that every role allows.
const sessionLife = "3600"

// sessions gives what reads are made with: one client for the agent, or one for each service account.
type sessions struct {
	settings
	*exchange.Cache[*openapi.Client]
	http     *http.Client
	node     connect.Node
	accounts providers.ServiceAccounts
}

func newSessions(s settings, cfg providers.Config, dial connect.Dialer) (*sessions, error) {
	all := &sessions{settings: s, http: connect.Client(dial), node: connect.NewNode(dial, nodeURL), accounts: cfg.ServiceAccounts}
	switch {
	case cfg.Identity == providers.AsPod:
		all.Cache = exchange.New(all.assume)
	case s.given.id == "":
		all.Cache = exchange.NewShared(all.login)
	default:
		agent, err := all.client(s.given)
		if err != nil {
			return nil, err
		}
		all.Cache = exchange.Fixed(agent)
	}
	return all, nil
}

// client returns a client of Parameter Store that signs with the keys.
func (s *sessions) client(k keys) (*openapi.Client, error) {
	config := s.config(s.endpoint, "oos."+s.region+".aliyuncs.com")
	config.AccessKeyId, config.AccessKeySecret = &k.id, &k.key
	if k.token != "" {
		config.SecurityToken = &k.token
	}
	client, err := openapi.NewClient(config)
	if err != nil { // its text may hold the keys
		return nil, providers.Errorf(providers.Invalid, "the keys can't be used as they are set")
	}
	return client, nil
}

// config is that of a client for the service at endpoint or, if that is nil, at Alibaba's own address.
func (s *sessions) config(endpoint *url.URL, address string) *openapi.Config {
	protocol := "https"
	if endpoint != nil {
		protocol, address = endpoint.Scheme, endpoint.Host
	}
	return &openapi.Config{RegionId: &s.region, Endpoint: &address, Protocol: &protocol, HttpClient: caller{s.http}}
}

// caller sends requests on the store's own connections, not on those that the SDK makes for all its clients.
type caller struct{ http *http.Client }

// Call sends r.
func (c caller) Call(r *http.Request, _ *http.Transport) (*http.Response, error) { return c.http.Do(r) }

// call makes one call and returns the answer's members.
func call(ctx context.Context, client openapi.Client, p utils.Params, request *utils.OpenApiRequest) (map[string]any, error) {
	p.Protocol, p.Method, p.Style, p.Pathname, p.BodyType = dara.String("HTTPS"), dara.String(http.MethodPost), dara.String("RPC"), dara.String("/"), dara.String("json")
	// The client is a copy for each call, because a call writes to it.
	answer, err := client.CallApiWithCtx(ctx, &p, request, &dara.RuntimeOptions{Autoretry: dara.Bool(false), MaxAttempts: dara.Int(1)})
	if err != nil {
		return nil, err
	}
	body, _ := answer["body"].(map[string]any)
	return body, nil
}

// assume exchanges the token of q's pod for a session of its role.
func (s *sessions) assume(ctx context.Context, q providers.Query) (*openapi.Client, time.Time, error) {
	role, err := s.roleOf(ctx, q)
	if err != nil {
		return nil, time.Time{}, err
	}
	token, err := exchange.Token(ctx, q, s.audience)
	if err != nil {
		return nil, time.Time{}, err
	}
	return s.session(ctx, map[string]any{"OIDCProviderArn": s.oidcProvider, "RoleArn": role, "OIDCToken": token, "RoleSessionName": exchange.SessionName(q)})
}

// roleOf returns the ARN of the role of q's caller. Its service account says the name only.
func (s *sessions) roleOf(ctx context.Context, q providers.Query) (string, error) {
	role, annotated, err := exchange.Role{Accounts: s.accounts, Annotation: roleAnnotation, Property: "roleArn", Default: s.role}.Of(ctx, q)
	if err != nil || !annotated {
		return role, err
	}
	if !providers.ConsistsOf(role, 64, ".-_") {
		return "", providers.Errorf(providers.Denied, "annotation %s of service account %s/%s is not the name of a role", roleAnnotation, q.Caller.Namespace, q.Caller.ServiceAccount)
	}
	return "acs:ram::" + s.account() + ":role/" + role, nil
}

// login returns a client with what the platform gives the agent: a role by RRSA, which is in its environment, or the role of
// its node. The names are those of Alibaba's SDKs.
func (s *sessions) login(ctx context.Context, _ providers.Query) (*openapi.Client, time.Time, error) {
	provider, role, file := os.Getenv("ALIBABA_CLOUD_OIDC_PROVIDER_ARN"), os.Getenv("ALIBABA_CLOUD_ROLE_ARN"), os.Getenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE")
	if provider == "" || role == "" || file == "" {
		return s.ofNode(ctx)
	}
	token, err := providers.ReadCredential("ALIBABA_CLOUD_OIDC_TOKEN_FILE", file)
	if err != nil {
		return nil, time.Time{}, err
	}
	return s.session(ctx, map[string]any{"OIDCProviderArn": provider, "RoleArn": role, "OIDCToken": string(token.Reveal()), "RoleSessionName": "keywell"})
}

// session asks STS for a session. The token goes in the body, which nobody logs.
func (s *sessions) session(ctx context.Context, form map[string]any) (*openapi.Client, time.Time, error) {
	client, err := openapi.NewClient(s.config(s.sts, "sts."+s.region+".aliyuncs.com"))
	if err != nil {
		return nil, time.Time{}, providers.Errorf(providers.Invalid, "client of STS can't be made")
	}
	form["DurationSeconds"] = sessionLife
	action := "AssumeRoleWithOIDC"
	body, err := call(ctx, *client, utils.Params{
		Action: &action, Version: dara.String(stsVersion), AuthType: dara.String("Anonymous"), ReqBodyType: dara.String("formData"),
	}, &utils.OpenApiRequest{Body: form})
	if err != nil {
		return nil, time.Time{}, exchange.Refused(failed(ctx, "sts:"+action+" of "+form["RoleArn"].(string), err))
	}
	given, err := json.Marshal(body["Credentials"])
	if err != nil {
		return nil, time.Time{}, providers.Errorf(providers.Unavailable, "sts:%s: the answer is malformed", action)
	}
	return s.with(given)
}

// credentials are what STS and a node's metadata service give.
type credentials struct {
	AccessKeyId, AccessKeySecret, SecurityToken string //nolint:revive // Alibaba's spelling
	Expiration                                  time.Time
}

// with returns a client with temporary keys.
func (s *sessions) with(given []byte) (*openapi.Client, time.Time, error) {
	var c credentials
	if err := json.Unmarshal(given, &c); err != nil || c.AccessKeyId == "" || c.AccessKeySecret == "" || c.SecurityToken == "" {
		return nil, time.Time{}, providers.Errorf(providers.Unavailable, "no usable credentials in the answer")
	}
	client, err := s.client(keys{c.AccessKeyId, c.AccessKeySecret, c.SecurityToken})
	return client, c.Expiration, err
}

// The metadata service of a node. Source: https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata.
const (
	nodeURL     = "http://100.100.100.200/latest/"
	nodeRoles   = "meta-data/ram/security-credentials/"
	tokenHeader = "X-Aliyun-Ecs-Metadata-Token" //nolint:gosec // a header's name
)

// ofNode returns a client with the role of the node.
func (s *sessions) ofNode(ctx context.Context) (*openapi.Client, time.Time, error) {
	token, err := s.node.Token(ctx, "api/token", tokenHeader+"-Ttl-Seconds")
	if err != nil {
		return nil, time.Time{}, noLogin(err)
	}
	header := http.Header{}
	if token != "" {
		header.Set(tokenHeader, token)
	}
	role, err := s.node.Ask(ctx, http.MethodGet, nodeRoles, header)
	if err != nil {
		return nil, time.Time{}, noLogin(err)
	}
	given, err := s.node.Ask(ctx, http.MethodGet, nodeRoles+url.PathEscape(role), header)
	if err != nil {
		return nil, time.Time{}, noLogin(err)
	}
	return s.with([]byte(given))
}

// noLogin adds to what a node said how else the agent could log in.
func noLogin(err error) error {
	return providers.Errorf(providers.KindOf(err), "no credentials of the agent: set accessKeyId and accessKeySecret, give it a role by RRSA, or give its node a RAM role: %w", err)
}
