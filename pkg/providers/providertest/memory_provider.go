package providertest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/keywell/keywell/pkg/providers"
)

// MemoryProvider is a Provider, Lister and Notifier of a Memory.
type MemoryProvider struct {
	store *Memory
	once  sync.Once
	done  chan struct{} // closed by Close
}

// Fetch returns a copy of what was put, or that it is unchanged if the query knows its version.
func (p *MemoryProvider) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	m := p.store
	m.mu.Lock()
	m.queries = append(m.queries, q)
	hang := m.hang
	m.mu.Unlock()
	if err := p.ready(ctx, hang); err != nil {
		return providers.Payload{}, err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fault(q.Name); err != nil {
		return providers.Payload{}, err
	}
	payload, ok := choose(m.secrets[key{q.Namespace, q.Name}], q)
	if !ok {
		return providers.Payload{}, providers.Errorf(providers.NotFound, "secret %s not found", q.Name)
	}
	if q.Known != "" && q.Known == payload.Version {
		payload.Fields, payload.Unchanged = nil, true
		return payload, nil
	}
	m.moved++
	payload.Fields = maps.Clone(payload.Fields)
	return payload, nil
}

// choose picks the version of a secret that q asks for.
func choose(versions []providers.Payload, q providers.Query) (providers.Payload, bool) {
	i := len(versions) - 1
	switch q.Stage {
	case "", StageCurrent:
	case StagePrevious:
		i--
	default:
		return providers.Payload{}, false
	}
	if q.Version != "" {
		i = slices.IndexFunc(versions, func(p providers.Payload) bool { return p.Version == q.Version })
	}
	if i < 0 {
		return providers.Payload{}, false
	}
	return versions[i], true
}

// List returns the names in the query's namespace.
func (p *MemoryProvider) List(ctx context.Context, q providers.Query) ([]string, error) {
	m := p.store
	m.mu.Lock()
	m.lists++
	hang := m.hang
	m.mu.Unlock()
	if err := p.ready(ctx, hang); err != nil {
		return nil, err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fault(""); err != nil {
		return nil, err
	}
	var names []string
	for k := range m.secrets {
		if k.namespace == q.Namespace {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Notify reports the name of every secret that is put or deleted, of whatever namespace.
func (p *MemoryProvider) Notify(ctx context.Context, changed func(name string)) error {
	w := p.store.watch()
	defer p.store.unwatch(w)
	if err := p.ready(ctx, nil); err != nil && ctx.Err() == nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.done:
			return providers.ErrClosed()
		case <-w.ready:
		}
		names, err := p.store.take(w)
		for _, name := range names {
			changed(name)
		}
		if err != nil {
			return err
		}
	}
}

// Close makes further calls fail.
func (p *MemoryProvider) Close() error {
	p.once.Do(func() {
		close(p.done)
		p.store.mu.Lock()
		defer p.store.mu.Unlock()
		p.store.closed++
	})
	return nil
}

// ready waits until hang is closed, if there is one, and fails if the provider is closed or ctx has ended.
func (p *MemoryProvider) ready(ctx context.Context, hang chan struct{}) error {
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-p.done:
		return providers.ErrClosed()
	default:
		return nil
	}
}

// watch is one running Notify. Its fields but ready are guarded by the store's mutex.
type watch struct {
	pending map[string]bool
	broken  error
	ready   chan struct{} // size one: something is pending or broken
}

func (w *watch) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (m *Memory) watch() *watch {
	w := &watch{pending: map[string]bool{}, ready: make(chan struct{}, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watches[w] = true
	return w
}

func (m *Memory) unwatch(w *watch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watches, w)
}

// take empties what is pending for w.
func (m *Memory) take(w *watch) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(w.pending))
	clear(w.pending)
	return names, w.broken
}

// Interface guards.
var (
	_ providers.Lister   = (*MemoryProvider)(nil)
	_ providers.Notifier = (*MemoryProvider)(nil)
)
