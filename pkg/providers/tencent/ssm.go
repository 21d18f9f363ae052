package tencent

import (
	"context"
	"encoding/base64"
	"slices"

	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/secret"
)

// The API. Source: https://cloud.tencent.com/document/api/1140/40522.
const (
	service    = "ssm"
	apiVersion = "2019-09-23"
	pageSize   = 100
	current    = "SSM_Current" // the version that is in use
	enabled    = 1             // state of secrets that can be read
)

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		Selectors:  selectors(),
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			s, err := newSettings(cfg.Properties, cfg.Identity)
			if err != nil {
				return nil, err
			}
			all := newSessions(s, cfg, dial)
			return &store{providers.NewGate(selectors(), all.transport.CloseIdleConnections), all}, nil
		},
	}
}

// store is the Provider.
type store struct {
	*providers.Gate
	sessions *sessions
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
	if err := s.call(ctx, q, "GetSecretValue", " of "+q.Name, map[string]any{"SecretName": q.Name, "VersionId": version}, answer); err != nil {
		return providers.Payload{}, err
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
		if err := s.call(ctx, q, "ListSecrets", "", map[string]any{"Offset": offset, "Limit": pageSize, "State": enabled}, answer); err != nil {
			return nil, err
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

// call makes one call as whom q is to be read, and gives up credentials that are not accepted any more, so that the next call
// gets others.
func (s *store) call(ctx context.Context, q providers.Query, action, object string, parameters map[string]any, answer tchttp.Response) error {
	client, err := s.sessions.Get(ctx, q)
	if err != nil {
		return err
	}
	request := tchttp.NewCommonRequest(service, apiVersion, action)
	request.SetContext(ctx)
	if err = request.SetActionParameters(parameters); err == nil {
		err = client.Send(request, answer)
	}
	switch act := service + ":" + action + object; {
	case err == nil:
		return nil
	case s.sessions.given.id == "" && outdated(err):
		s.sessions.Drop(q, client)
		return providers.Errorf(providers.Unavailable, "%w", failed(ctx, act, err))
	default:
		return failed(ctx, act, err)
	}
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
