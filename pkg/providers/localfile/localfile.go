package localfile

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.local.file"

func properties() []providers.Property {
	return []providers.Property{
		{Name: "secretsFile", Required: true},
		{Name: "nestedSeparator"},
		{Name: "multiValued"},
	}
}

// Driver returns the driver.
func Driver() providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		MultipleKeyValues: func(cfg providers.Config) bool {
			return cfg.Properties.Decode(properties()).Truthy("multiValued", false)
		},
		Open: open,
	}
}

// open reads the file once. A file that is not there or can't be read is Unavailable, one that is malformed is Invalid.
func open(_ context.Context, cfg providers.Config) (providers.Provider, error) {
	d := cfg.Properties.Decode(properties())
	path := d.String("secretsFile", "")
	l := layout{
		separator:   d.String("nestedSeparator", ":"),
		multiValued: d.Truthy("multiValued", false),
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, providers.Errorf(providers.Unavailable, "secrets file: %w", err)
	}
	s := &store{
		path:    path,
		layout:  l,
		log:     cfg.Logger.With("store", cfg.Name),
		done:    make(chan struct{}),
		reading: make(chan struct{}, 1),
	}
	first := s.read()
	if first.err != nil {
		return nil, first.err
	}
	s.current.snapshot = first
	return s, nil
}

// store is the Provider.
type store struct {
	path   string // absolute
	layout layout
	log    *slog.Logger

	closing sync.Once
	done    chan struct{} // closed by Close

	reading chan struct{} // holds a token while the file is read
	current struct {      // what is served
		sync.Mutex
		snapshot
	}
}

// Fetch returns one secret of the file as it is now. The payload has no Version: a file has no history, and a digest of
// its content would let a reader test guesses of a short secret.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	secrets, err := s.secrets(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	fields, ok := secrets[q.Name]
	if !ok {
		return providers.Payload{}, providers.Errorf(providers.NotFound, "secret %s not found", q.Name)
	}
	return providers.Payload{Fields: maps.Clone(fields)}, nil
}

// List returns the names of the file's secrets as it is now.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	secrets, err := s.secrets(ctx, q)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(secrets)), nil
}

// Close ends Notify and makes further calls fail.
func (s *store) Close() error {
	s.closing.Do(func() { close(s.done) })
	return nil
}

func (s *store) secrets(ctx context.Context, q providers.Query) (content, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-s.done:
		return nil, providers.ErrClosed()
	default:
	}
	if q.Version != "" || q.Stage != "" || q.Namespace != "" {
		return nil, providers.Errorf(providers.Invalid, "a secrets file has no versions, stages or namespaces")
	}
	return s.refresh(ctx)
}

// Interface guards.
var (
	_ providers.Lister   = (*store)(nil)
	_ providers.Notifier = (*store)(nil)
)
