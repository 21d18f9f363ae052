package providertest

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// The stages of a secret in Memory. The empty stage is StageCurrent.
const (
	StageCurrent  = "current"
	StagePrevious = "previous"
)

// Memory is a secret store in memory, with versions, stages and namespaces, whose failures can be switched and whose
// calls are counted. It is the store, not the provider: Provider opens it, any number of times. It is safe for
// concurrent use and works inside a synctest bubble.
type Memory struct {
	mu      sync.Mutex
	secrets map[key][]providers.Payload // oldest first; the last is current
	watches map[*watch]bool
	faults  map[string]error // secret name, or "" for every call → what it fails with
	hang    chan struct{}    // non-nil: calls wait until it is closed
	queries []providers.Query
	moved   int // payloads given with their fields
	lists   int
	opened  int
	closed  int
}

type key struct{ namespace, name string }

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		secrets: map[key][]providers.Payload{},
		watches: map[*watch]bool{},
		faults:  map[string]error{},
	}
}

// Put adds a version of a secret (field name → value) in the default namespace and returns its version id.
func (m *Memory) Put(name string, fields map[string]string) (version string) {
	return m.PutPayload("", name, Payload(fields))
}

// PutPayload adds a version of a secret in a namespace and returns its version id: p.Version or, if that is empty, the
// number of the version, counted from 1.
func (m *Memory) PutPayload(namespace, name string, p providers.Payload) (version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := key{namespace, name}
	if p.Version == "" {
		p.Version = strconv.Itoa(len(m.secrets[k]) + 1)
	}
	p.Fields = maps.Clone(p.Fields)
	m.secrets[k] = append(m.secrets[k], p)
	m.wake(name)
	return p.Version
}

// Delete removes a secret of the default namespace with all its versions.
func (m *Memory) Delete(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.secrets, key{name: name})
	m.wake(name)
}

// Fail makes every later Fetch and List fail with err, until Fail(nil).
func (m *Memory) Fail(err error) { m.FailName("", err) }

// FailName makes every later Fetch of name fail with err, until FailName(name, nil).
func (m *Memory) FailName(name string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[name] = err
}

// Hang makes every later Fetch and List wait until release is called or its context ends.
func (m *Memory) Hang() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	hang := make(chan struct{})
	m.hang = hang
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.hang == hang {
			m.hang = nil
		}
		close(hang)
	})
}

// BreakNotify makes every running Notify return err.
func (m *Memory) BreakNotify(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range m.watches {
		w.broken = err
		w.signal()
	}
}

// Fetches returns how many times Fetch was called for name, hanging and failing calls included; "" counts all names.
func (m *Memory) Fetches(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, q := range m.queries {
		if name == "" || q.Name == name {
			n++
		}
	}
	return n
}

// Queries returns the query of every Fetch so far, in the order of the calls.
func (m *Memory) Queries() []providers.Query {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.queries)
}

// Transfers returns how many times Fetch returned fields, and not only that they are unchanged.
func (m *Memory) Transfers() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}

// Lists returns how many times List was called.
func (m *Memory) Lists() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lists
}

// Notifying returns how many calls of Notify are running.
func (m *Memory) Notifying() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.watches)
}

// Open returns how many providers of m were opened and not yet closed.
func (m *Memory) Open() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened - m.closed
}

// Driver returns a driver of type typ whose Open opens m, whatever the configuration.
func (m *Memory) Driver(typ string) providers.Driver {
	return providers.Driver{
		Type:              typ,
		MultipleKeyValues: func(providers.Config) bool { return true },
		Open:              func(context.Context, providers.Config) (providers.Provider, error) { return m.Provider(), nil },
	}
}

// Provider opens m.
func (m *Memory) Provider() *MemoryProvider {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	return &MemoryProvider{store: m, done: make(chan struct{})}
}

// Payload returns a payload with the given fields (field name → value).
func Payload(fields map[string]string) providers.Payload {
	p := providers.Payload{Fields: make(map[string]secret.Value, len(fields))}
	for name, value := range fields {
		p.Fields[name] = secret.FromString(value)
	}
	return p
}

// fault returns what a call for name fails with. m.mu is held.
func (m *Memory) fault(name string) error {
	if err := m.faults[""]; err != nil {
		return err
	}
	return m.faults[name]
}

// wake tells every running Notify that name changed. m.mu is held.
func (m *Memory) wake(name string) {
	for w := range m.watches {
		w.pending[name] = true
		w.signal()
	}
}
