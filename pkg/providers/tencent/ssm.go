package tencent

import (
	"context"
	"encoding/base64"
	"slices"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
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

func selectors() providers.Selectors { return providers.Selectors{Version: true} }

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Selectors:  selectors(),
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			return open(cfg.Properties, dial)
		},
	}
}

func open(p providers.Properties, dial connect.Dialer) (providers.Provider, error) {
	d := p.Decode(properties())
	credential := common.NewTokenCredential(string(d.Secret("secretId").Reveal()), string(d.Secret("secretKey").Reveal()), string(d.Secret("token").Reveal()))
	region, endpoint := d.String("region", ""), d.URL("endpoint", "https://ssm.tencentcloudapi.com")
	if err := d.Err(); err != nil {
		return nil, err
	}
	settings := profile.NewClientProfile()
	settings.HttpProfile.Endpoint = service + ".tencentcloudapi.com"
	if endpoint != nil {
		settings.HttpProfile.Scheme, settings.HttpProfile.Endpoint = endpoint.Scheme, endpoint.Host
	}
	transport := connect.Transport(dial)
	client := common.NewCommonClient(credential, region, settings)
	client.WithHttpTransport(transport)
	return &store{Gate: providers.NewGate(selectors(), transport.CloseIdleConnections), client: client}, nil
}

// store is the Provider.
type store struct {
	*providers.Gate
	client *common.Client
}

type valueAnswer struct {
	*tchttp.BaseResponse
	Response struct{ VersionId, SecretBinary, SecretString string } //nolint:revive // Tencent's spelling
}

// Fetch reads one version of a secret: the one in use, unless q asks for another. As in Dapr, request metadata VersionID
// asks too.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	version := current
	for _, asked := range []string{q.Metadata["VersionID"], q.Version} {
		if asked != "" {
			version = asked
		}
	}
	if !providers.ConsistsOf(q.Name, 128, "-_") || !providers.ConsistsOf(version, 64, "-_.") {
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
	if err := s.Enter(ctx, q); err != nil {
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

// Interface guard.
var _ providers.Lister = (*store)(nil)
