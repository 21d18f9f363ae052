package huawei

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"

	csms "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/csms/v1"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/csms/v1/model"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/members"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	latest   = "latest"
	current  = "SYSCURRENT" // stage of the version that was made last, unless its maker wants it otherwise
	enabled  = "ENABLED"    // state of secrets that can be read
	pageSize = "100"        // secrets per page of a listing, as in Dapr
)

func selectors() providers.Selectors { return providers.Selectors{Version: true, Stage: true} }

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		MultipleKeyValues: func(cfg providers.Config) bool {
			return cfg.Properties.Decode(properties()).Truthy("multipleKeyValuesPerSecret", false)
		},
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		Selectors:  selectors(),
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			s, err := newSettings(cfg.Properties, cfg.Identity)
			if err != nil {
				return nil, err
			}
			all := newSessions(s, cfg.Identity, dial)
			return &store{Gate: providers.NewGate(selectors(), all.transport.CloseIdleConnections), sessions: all}, nil
		},
	}
}

// store is the Provider: the secrets of one project.
type store struct {
	*providers.Gate
	sessions *sessions
}

// Fetch reads one version of a secret: the latest, unless q asks for another by its id or its stage.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	if err := checkShape(q); err != nil {
		return providers.Payload{}, err
	}
	session, err := s.sessions.cache.Get(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	if q.Known != "" && s.unchanged(ctx, session, q) {
		return providers.Payload{Version: q.Known, Unchanged: true}, nil
	}
	version, err := s.version(ctx, session, q)
	if err != nil {
		return providers.Payload{}, err
	}
	client, got := s.call(ctx, session)
	out, err := client.ShowSecretVersion(&model.ShowSecretVersionRequest{SecretName: q.Name, VersionId: version})
	if err != nil {
		return providers.Payload{}, s.failed(ctx, q, session, "csms:ShowSecretVersion of "+q.Name, got, err)
	}
	return s.payload(q.Name, out.Version)
}

// checkShape refuses what can't be part of a path. Source: https://support.huaweicloud.com/intl/en-us/api-dew/CreateSecret.html.
func checkShape(q providers.Query) error {
	const most = 64
	if !providers.ConsistsOf(q.Name, most, "-_") {
		return providers.Errorf(providers.Invalid, "%.100q is not a name that a secret can have", q.Name)
	}
	for _, selector := range []string{q.Version, q.Stage} {
		if selector != "" && !providers.ConsistsOf(selector, most, "-_") {
			return providers.Errorf(providers.Invalid, "%.100q is neither a version nor a stage that there can be", selector)
		}
	}
	return nil
}

// call returns the service's client for one call.
func (s *store) call(ctx context.Context, by *session) (*csms.CsmsClient, *answered) {
	client, got := sdk(ctx, s.sessions.transport, s.sessions.csms, by.credential)
	return csms.NewCsmsClient(client), got
}

// version returns the id of the version that q asks for.
func (s *store) version(ctx context.Context, by *session, q providers.Query) (string, error) {
	if q.Stage == "" {
		if q.Version == "" {
			return latest, nil
		}
		return q.Version, nil
	}
	act := "csms:ShowSecretStage of " + q.Name
	client, got := s.call(ctx, by)
	out, err := client.ShowSecretStage(&model.ShowSecretStageRequest{SecretName: q.Name, StageName: q.Stage})
	switch {
	case err != nil:
		return "", s.failed(ctx, q, by, act, got, err)
	case out.Stage == nil || !providers.ConsistsOf(value(out.Stage.VersionId), 64, "-_"):
		return "", providers.Errorf(providers.Unavailable, "%s: the answer is malformed", act)
	case q.Version != "" && q.Version != *out.Stage.VersionId:
		return "", providers.Errorf(providers.NotFound, "%s: version %s is not in stage %s", act, q.Version, q.Stage)
	}
	return *out.Stage.VersionId, nil
}

// unchanged asks whether the version that q wants is the one that it knows: one call, but none of the value, which the
// service would have to decrypt. Any doubt is a no: then the value is read.
func (s *store) unchanged(ctx context.Context, by *session, q providers.Query) bool {
	if by.noVersions.Load() {
		return false
	}
	client, got := s.call(ctx, by)
	out, err := client.ListSecretVersions(&model.ListSecretVersionsRequest{SecretName: q.Name})
	if err != nil {
		by.noVersions.Store(got.status == http.StatusForbidden)
		return false
	}
	if out.VersionMetadatas == nil || out.PageInfo != nil && value(out.PageInfo.NextMarker) != "" {
		return false
	}
	var stages []string
	newest, exists := 0, false
	for _, m := range *out.VersionMetadatas {
		number, err := strconv.Atoi(strings.TrimPrefix(value(m.Id), "v"))
		if err != nil {
			return false // ids were v1, v2 and so on when this was written
		}
		newest = max(newest, number)
		if value(m.Id) == q.Known && m.VersionStages != nil {
			stages, exists = *m.VersionStages, true
		}
	}
	switch {
	case !exists, q.Version != "" && q.Version != latest && q.Version != q.Known:
		return false
	case q.Stage != "":
		return slices.Contains(stages, q.Stage)
	case q.Version == "" || q.Version == latest:
		return q.Known == "v"+strconv.Itoa(newest) && slices.Contains(stages, current)
	}
	return true
}

// List returns the names of the secrets that can be read.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.Enter(ctx, q); err != nil {
		return nil, err
	}
	session, err := s.sessions.cache.Get(ctx, q)
	if err != nil {
		return nil, err
	}
	names := []string{}
	limit := pageSize
	for marker := ""; ; {
		client, got := s.call(ctx, session)
		request := &model.ListSecretsRequest{Limit: &limit}
		if marker != "" {
			request.Marker = &marker
		}
		page, err := client.ListSecrets(request)
		switch {
		case err != nil:
			return nil, s.failed(ctx, q, session, "csms:ListSecrets", got, err)
		case page.Secrets == nil || page.PageInfo == nil:
			return nil, providers.Errorf(providers.Unavailable, "csms:ListSecrets: the answer is malformed")
		}
		for _, one := range *page.Secrets {
			if value(one.State) == enabled {
				names = append(names, value(one.Name))
			}
		}
		next := value(page.PageInfo.NextMarker)
		if next == "" {
			break
		}
		if next == marker {
			return nil, providers.Errorf(providers.Unavailable, "csms:ListSecrets: the pages don't end")
		}
		marker = next
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// failed maps an error, and gives up credentials that Huawei does not accept, so that the next read gets others.
func (s *store) failed(ctx context.Context, q providers.Query, by *session, act string, got *answered, err error) error {
	if got.status == http.StatusUnauthorized {
		s.sessions.cache.Drop(q, by)
	}
	return failed(ctx, act, got, err)
}

// payload takes a value apart, as the manifest says.
func (s *store) payload(name string, v *model.Version) (providers.Payload, error) {
	if v == nil || v.VersionMetadata == nil || v.SecretString == nil && v.SecretBinary == nil {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "csms:ShowSecretVersion of %s: the answer is malformed", name)
	}
	p := providers.Payload{Version: value(v.VersionMetadata.Id)}
	if text := value(v.SecretString); value(v.SecretBinary) == "" {
		if s.sessions.split {
			p.Fields = members.Of(text, s.sessions.separator)
		}
		if p.Fields == nil {
			p.Fields = map[string]secret.Value{name: secret.FromString(text)}
		}
		return p, nil
	}
	data, err := base64.StdEncoding.DecodeString(*v.SecretBinary)
	if err != nil {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "csms:ShowSecretVersion of %s: the value is malformed", name)
	}
	p.Fields = map[string]secret.Value{name: secret.New(data)}
	return p, nil
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
