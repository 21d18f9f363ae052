package azure

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/secret"
)

func selectors() providers.Selectors { return providers.Selectors{Version: true} }

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		Selectors:  selectors(),
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			s, err := newSettings(cfg.Properties)
			if err != nil {
				return nil, err
			}
			all, err := newSessions(s, cfg, dial)
			if err != nil {
				return nil, err
			}
			return &vault{providers.NewGate(selectors(), all.http.CloseIdleConnections), all}, nil
		},
	}
}

// vault is the Provider.
type vault struct {
	*providers.Gate
	sessions *sessions
}

// The kinds of objects, by the prefix of a name. A name without one is a secret's.
const (
	certificatePrefix = "certificates/"
	keyPrefix         = "keys/"
)

// Fetch reads one version of an object: the newest one, unless q asks for another.
func (v *vault) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := v.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	name, read := q.Name, v.secret
	if bare, ok := strings.CutPrefix(q.Name, certificatePrefix); ok {
		name, read = bare, v.certificate
	} else if bare, ok := strings.CutPrefix(q.Name, keyPrefix); ok {
		name, read = bare, v.key
	}
	if !isName(name) || q.Version != "" && !isName(q.Version) {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "%.100q, version %.100q: neither a name nor a version in a vault is like that", q.Name, q.Version)
	}
	session, err := v.sessions.Get(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	p, err := read(ctx, session, q, name)
	if err != nil {
		v.sessions.noteError(q, session, err)
		return providers.Payload{}, failed(ctx, "get "+q.Name, err)
	}
	return p, nil
}

// secret reads a secret as it is.
func (*vault) secret(ctx context.Context, s *session, q providers.Query, name string) (providers.Payload, error) {
	got, err := s.secrets.GetSecret(ctx, name, q.Version, nil)
	if err != nil {
		return providers.Payload{}, err
	}
	p := payload(got.Secret)
	p.Fields = map[string]secret.Value{q.Name: secret.FromString(text(got.Value))}
	return p, nil
}

// payload returns everything but the fields. A secret that will expire is read again then; one that has expired is served,
// as Key Vault and Dapr do.
func payload(s azsecrets.Secret) providers.Payload {
	var p providers.Payload
	if s.ID != nil {
		p.Version = s.ID.Version()
	}
	if s.Attributes != nil && s.Attributes.Expires != nil && time.Now().Before(*s.Attributes.Expires) {
		p.NotAfter = *s.Attributes.Expires
	}
	return p
}

// List returns the names of the secrets that are enabled. As in Dapr, request metadata maxresults limits their number.
func (v *vault) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := v.Enter(ctx, q); err != nil {
		return nil, err
	}
	most := 0
	if asked := q.Metadata["maxresults"]; asked != "" {
		n, err := strconv.Atoi(asked)
		if err != nil || n < 0 {
			return nil, providers.Errorf(providers.Invalid, "metadata maxresults is not a whole number")
		}
		most = n
	}
	session, err := v.sessions.Get(ctx, q)
	if err != nil {
		return nil, err
	}
	names, err := list(ctx, session, most)
	if err != nil {
		v.sessions.noteError(q, session, err)
		return nil, failed(ctx, "list secrets", err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func list(ctx context.Context, s *session, most int) ([]string, error) {
	names := []string{}
	for pages := s.secrets.NewListSecretPropertiesPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range page.Value {
			if p.ID == nil || p.Attributes != nil && p.Attributes.Enabled != nil && !*p.Attributes.Enabled {
				continue
			}
			if names = append(names, p.ID.Name()); len(names) == most {
				return names, nil
			}
		}
	}
	return names, nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Interface guard.
var _ providers.Lister = (*vault)(nil)
