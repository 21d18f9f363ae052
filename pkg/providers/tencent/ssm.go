package tencent

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// Type is Dapr's component type.
const Type = "secretstores.tencentcloud.ssm"

// The API. Source: https://cloud.tencent.com/document/api/1140/40522.
const (
	service    = "ssm"
	apiVersion = "2019-09-23"
	pageSize   = 100
	current    = "SSM_Current" // the version that is in use
	enabled    = 1             // state of secrets that can be read
)

func properties() []providers.Property {
	return []providers.Property{
		{Name: "secretId", Required: true},
		{Name: "secretKey", Required: true, Secret: true},
		{Name: "token", Secret: true},
		{Name: "region"},
		{Name: "endpoint"},
	}
}

// dialer makes connections; nil stands for the usual way.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Selectors:  providers.Selectors{Version: true},
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			return open(cfg.Properties, dial)
		},
	}
}

func open(p providers.Properties, dial dialer) (providers.Provider, error) {
	d := p.Decode(properties())
	credential := common.NewTokenCredential(string(d.Secret("secretId").Reveal()), string(d.Secret("secretKey").Reveal()), string(d.Secret("token").Reveal()))
	region, endpoint := d.String("region", ""), d.String("endpoint", "")
	if err := d.Err(); err != nil {
		return nil, err
	}
	settings := profile.NewClientProfile()
	settings.HttpProfile.Endpoint = service + ".tencentcloudapi.com"
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, providers.Errorf(providers.Invalid, `metadata field "endpoint" is not a URL such as https://ssm.tencentcloudapi.com`)
		}
		settings.HttpProfile.Scheme, settings.HttpProfile.Endpoint = u.Scheme, u.Host
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if dial != nil {
		transport.DialContext = dial
	}
	client := common.NewCommonClient(credential, region, settings)
	client.WithHttpTransport(transport)
	return &store{client: client, transport: transport}, nil
}

// store is the Provider.
type store struct {
	client    *common.Client
	transport *http.Transport
	closed    atomic.Bool
}

type valueAnswer struct {
	*tchttp.BaseResponse
	Response struct{ VersionId, SecretBinary, SecretString string } //nolint:revive // Tencent's spelling
}

// Fetch reads one version of a secret: the one in use, unless q asks for another. As in Dapr, request metadata VersionID
// asks too.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.check(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	version := current
	for _, asked := range []string{q.Metadata["VersionID"], q.Version} {
		if asked != "" {
			version = asked
		}
	}
	if !consistsOf(q.Name, 128, "-_") || !consistsOf(version, 64, "-_.") {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "%.100q, version %.100q: neither a secret's name nor a version is like that", q.Name, version)
	}
	answer := &valueAnswer{BaseResponse: &tchttp.BaseResponse{}}
	if err := s.call(ctx, "GetSecretValue", map[string]any{"SecretName": q.Name, "VersionId": version}, answer); err != nil {
		return providers.Payload{}, failed(ctx, "ssm:GetSecretValue of "+q.Name, err)
	}
	got := answer.Response
	value := secret.FromString(got.SecretString)
	if got.SecretBinary != "" {
		data, err := base64.StdEncoding.DecodeString(got.SecretBinary)
		if err != nil {
			return providers.Payload{}, providers.Errorf(providers.Unavailable, "ssm:GetSecretValue of %s: the answer is malformed", q.Name)
		}
		value = secret.New(data)
	}
	return providers.Payload{Fields: map[string]secret.Value{q.Name: value}, Version: got.VersionId}, nil
}

type listAnswer struct {
	*tchttp.BaseResponse
	Response struct {
		TotalCount      int
		SecretMetadatas []struct{ SecretName string }
	}
}

// List returns the names of the secrets that can be read.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.check(ctx, q); err != nil {
		return nil, err
	}
	names := []string{}
	for offset := 0; ; offset += pageSize {
		answer := &listAnswer{BaseResponse: &tchttp.BaseResponse{}}
		if err := s.call(ctx, "ListSecrets", map[string]any{"Offset": offset, "Limit": pageSize, "State": enabled}, answer); err != nil {
			return nil, failed(ctx, "ssm:ListSecrets", err)
		}
		for _, m := range answer.Response.SecretMetadatas {
			names = append(names, m.SecretName)
		}
		if len(answer.Response.SecretMetadatas) < pageSize {
			break
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (s *store) call(ctx context.Context, action string, parameters map[string]any, answer tchttp.Response) error {
	request := tchttp.NewCommonRequest(service, apiVersion, action)
	if err := request.SetActionParameters(parameters); err != nil {
		return err
	}
	request.SetContext(ctx)
	return s.client.Send(request, answer)
}

// Close makes further calls fail.
func (s *store) Close() error {
	s.closed.Store(true)
	s.transport.CloseIdleConnections()
	return nil
}

func (s *store) check(ctx context.Context, q providers.Query) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.closed.Load():
		return providers.Errorf(providers.Unavailable, "provider is closed")
	case q.Namespace != "" || q.Stage != "":
		return providers.Errorf(providers.Invalid, "the store has no namespaces and no stages")
	}
	return nil
}

// consistsOf tells whether s is one to most ASCII letters, digits and characters of others.
func consistsOf(s string, most int, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !slices.Contains([]byte(others), c) {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
