package vault

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.hashicorp.vault"

// Driver returns the driver.
func Driver() providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Identities: []providers.Identity{providers.AsAgent, providers.AsPod},
		MultipleKeyValues: func(cfg providers.Config) bool {
			return cfg.Properties.Decode(properties()).String("vaultValueType", valueMap) != valueText
		},
		Selectors: providers.Selectors{Version: true},
		Open:      open,
	}
}

// open checks the configuration and makes no connection: a Vault that is sealed or out of reach does not keep a store
// from opening.
func open(_ context.Context, cfg providers.Config) (providers.Provider, error) {
	c, err := configOf(cfg)
	if err != nil {
		return nil, err
	}
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &store{config: c, client: client, sessions: newSessions(c, client, log), versions: newRefusals(), log: log, ended: make(chan struct{})}, nil
}

// store is one mount.
type store struct {
	config
	client   *client
	sessions *sessions
	engine   atomic.Pointer[engine] // nil: not asked yet
	versions *refusals              // whose token may not read version metadata
	closed   atomic.Bool
	log      *slog.Logger
	ended    chan struct{} // closed by Close
}

var errClosed = providers.Errorf(providers.Unavailable, "the store is closed")

// Close stops renewing tokens. They are not revoked: credentials that were issued to them live on in volumes.
func (s *store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.ended)
	s.sessions.close()
	s.client.close()
	return nil
}

// Fetch reads one secret.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.accepts(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	if err := checkName(q.Name); err != nil {
		return providers.Payload{}, err
	}
	who, err := s.sessions.of(q)
	if err != nil {
		return providers.Payload{}, err
	}
	e, err := s.engineOf(ctx, who)
	if err != nil {
		return providers.Payload{}, err
	}
	p, err := e.fetch(ctx, s, who, q)
	if err == nil && s.closed.Load() {
		return providers.Payload{}, errClosed
	}
	return p, err
}

// List returns the names below the prefix.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.accepts(ctx, q); err != nil {
		return nil, err
	}
	who, err := s.sessions.of(q)
	if err != nil {
		return nil, err
	}
	e, err := s.engineOf(ctx, who)
	if err != nil {
		return nil, err
	}
	names, err := e.list(ctx, s, who)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// accepts refuses selectors that the store does not have, and everything after Close.
func (s *store) accepts(ctx context.Context, q providers.Query) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.closed.Load():
		return errClosed
	case q.Stage != "":
		return providers.Errorf(providers.Invalid, "stage %q is asked for, and Vault has no stages", q.Stage)
	case q.Namespace != "":
		return providers.Errorf(providers.Invalid, "namespace %q is asked for; a store has the one of its manifest (vaultNamespace)", q.Namespace)
	}
	return nil
}
