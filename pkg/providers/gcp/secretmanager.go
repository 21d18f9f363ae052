package gcp

import (
	"context"
	"hash/crc32"
	"slices"
	"strings"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	latest   = "latest"
	pageSize = 500 // secrets per page of a listing
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
			s, err := newSettings(cfg.Properties, cfg.Identity)
			if err != nil {
				return nil, err
			}
			all, err := newSessions(s, cfg, dial)
			if err != nil {
				return nil, err
			}
			return &project{providers.NewGate(selectors(), all.close), all}, nil
		},
	}
}

// project is the Provider: the secrets of one project, or of one location of it.
type project struct {
	*providers.Gate
	sessions *sessions
}

// parent returns the resource that secrets belong to.
func (p *project) parent() string {
	parent := "projects/" + p.sessions.project
	if p.sessions.location != "" {
		parent += "/locations/" + p.sessions.location
	}
	return parent
}

// Fetch reads one version of a secret: the latest, unless q asks for another by its number or alias.
func (p *project) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := p.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	name, err := p.resource(q)
	if err != nil {
		return providers.Payload{}, err
	}
	session, err := p.sessions.Get(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	if q.Known != "" && p.unchanged(ctx, session, name, q.Known) {
		return providers.Payload{Version: q.Known, Unchanged: true}, nil
	}
	authorized, err := session.authorize(ctx)
	if err != nil {
		return providers.Payload{}, err
	}
	got, err := p.sessions.client.AccessSecretVersion(routed(ctx, "name", name), &secretmanagerpb.AccessSecretVersionRequest{Name: name}, authorized)
	if err != nil {
		p.noteError(q, session, err)
		return providers.Payload{}, failed(ctx, "access "+name, err)
	}
	data := got.GetPayload().GetData()
	if sum := got.GetPayload().DataCrc32C; sum != nil && int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))) != *sum {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "access %s: the value was damaged on the way (CRC32C)", name)
	}
	return providers.Payload{
		Fields:  map[string]secret.Value{q.Name: secret.New(data)},
		Version: lastPart(got.GetName()),
	}, nil
}

// resource returns the full name of the version that q asks for.
func (p *project) resource(q providers.Query) (string, error) {
	name, version := q.Name, q.Version
	if p.sessions.fullNames {
		name = strings.TrimPrefix(name, p.parent()+"/secrets/")
	}
	if version == "" {
		version = latest
	}
	if !isID(name, "_-") || !isID(version, "_-") {
		return "", providers.Errorf(providers.Invalid, "%.100q, version %.100q: neither a secret's name nor a version's number or alias is like that", q.Name, q.Version)
	}
	return p.parent() + "/secrets/" + name + "/versions/" + version, nil
}

// unchanged asks whether the version called name is the known one. Any doubt is a no: then the value is read.
func (p *project) unchanged(ctx context.Context, s *session, name, known string) bool {
	if s.noVersions.Load() {
		return false
	}
	authorized, err := s.authorize(ctx)
	if err != nil {
		return false
	}
	got, err := p.sessions.client.GetSecretVersion(routed(ctx, "name", name), &secretmanagerpb.GetSecretVersionRequest{Name: name}, authorized)
	if err != nil {
		s.noVersions.Store(status.Code(err) == codes.PermissionDenied)
		return false
	}
	return got.GetState() == secretmanagerpb.SecretVersion_ENABLED && lastPart(got.GetName()) == known
}

// noteError gives up a token that Google does not accept, so that the next read gets another.
func (p *project) noteError(q providers.Query, used *session, err error) {
	if status.Code(err) == codes.Unauthenticated {
		p.sessions.Drop(q, used)
	}
}

// List returns the names of all secrets: short ones, by which policies know them, or Dapr's full ones if the manifest
// wants these.
func (p *project) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := p.Enter(ctx, q); err != nil {
		return nil, err
	}
	session, err := p.sessions.Get(ctx, q)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for next := ""; ; {
		authorized, err := session.authorize(ctx)
		if err != nil {
			return nil, err
		}
		page, err := p.sessions.client.ListSecrets(routed(ctx, "parent", p.parent()),
			&secretmanagerpb.ListSecretsRequest{Parent: p.parent(), PageSize: pageSize, PageToken: next}, authorized)
		if err != nil {
			p.noteError(q, session, err)
			return nil, failed(ctx, "list secrets of "+p.parent(), err)
		}
		for _, s := range page.GetSecrets() {
			name := lastPart(s.GetName()) // the project's number is in it, where its id was asked for
			if p.sessions.fullNames {
				name = p.parent() + "/secrets/" + name
			}
			names = append(names, name)
		}
		if next = page.GetNextPageToken(); next == "" {
			break
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// routed adds the header by which Google's front ends find the right back end. Source: https://google.aip.dev/4222.
func routed(ctx context.Context, field, value string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-goog-request-params", field+"="+strings.ReplaceAll(value, "/", "%2F"))
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// Interface guard.
var _ providers.Lister = (*project)(nil)
