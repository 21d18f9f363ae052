package alibaba

import (
	"context"
	"slices"
	"strconv"

	"github.com/alibabacloud-go/darabonba-openapi/v2/utils"
	"github.com/alibabacloud-go/tea/dara"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/secret"
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
			all, err := newSessions(s, cfg, dial)
			if err != nil {
				return nil, err
			}
			return &store{providers.NewGate(selectors(), all.http.CloseIdleConnections), all}, nil
		},
	}
}

// store is the Provider.
type store struct {
	*providers.Gate
	sessions *sessions
}

// Fetch reads a secret parameter, decrypted: its newest version, unless q asks for another.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	if !providers.ConsistsOf(q.Name, 200, "-_/.") {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "%.100q is not a name that a parameter can have", q.Name)
	}
	parameters := map[string]string{"Name": q.Name, "WithDecryption": "true"}
	if q.Version != "" {
		if n, err := strconv.ParseInt(q.Version, 10, 32); err != nil || n < 1 {
			return providers.Payload{}, providers.Errorf(providers.Invalid, "version %.100q is not a number", q.Version)
		}
		parameters["ParameterVersion"] = q.Version
	}
	body, err := s.call(ctx, q, "GetSecretParameter", " of "+q.Name, parameters)
	if err != nil {
		return providers.Payload{}, err
	}
	parameter, _ := body["Parameter"].(map[string]any)
	value, ok := parameter["Value"].(string)
	if !ok {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "oos:GetSecretParameter of %s: no usable answer", q.Name)
	}
	return providers.Payload{
		Fields:  map[string]secret.Value{q.Name: secret.FromString(value)},
		Version: dara.ToString(parameter["ParameterVersion"]),
	}, nil
}

// List returns the names of the secret parameters below request metadata path, by default all.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.Enter(ctx, q); err != nil {
		return nil, err
	}
	path := q.Metadata["path"]
	if path == "" {
		path = "/"
	}
	names := []string{}
	for next := ""; ; {
		parameters := map[string]string{"Path": path, "Recursive": "true", "WithDecryption": "false"}
		if next != "" {
			parameters["NextToken"] = next
		}
		body, err := s.call(ctx, q, "GetSecretParametersByPath", "", parameters)
		if err != nil {
			return nil, err
		}
		page, _ := body["Parameters"].([]any)
		for _, item := range page {
			parameter, _ := item.(map[string]any)
			if name, ok := parameter["Name"].(string); ok {
				names = append(names, name)
			}
		}
		if next, _ = body["NextToken"].(string); next == "" {
			break
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// call makes one call as whom q is to be read, and gives up credentials that are not accepted any more, so that the next call
// gets others.
func (s *store) call(ctx context.Context, q providers.Query, action, object string, parameters map[string]string) (map[string]any, error) {
	client, err := s.sessions.Get(ctx, q)
	if err != nil {
		return nil, err
	}
	query := map[string]*string{"RegionId": &s.sessions.region}
	for name, value := range parameters {
		query[name] = &value
	}
	body, err := call(ctx, *client, utils.Params{
		Action: &action, Version: dara.String(oosVersion), AuthType: dara.String("AK"), ReqBodyType: dara.String("json"),
	}, &utils.OpenApiRequest{Query: query})
	switch act := "oos:" + action + object; {
	case err == nil:
		return body, nil
	case s.sessions.given.id == "" && outdated(err):
		s.sessions.Drop(q, client)
		return nil, providers.Errorf(providers.Unavailable, "%w", failed(ctx, act, err))
	default:
		return nil, failed(ctx, act, err)
	}
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
