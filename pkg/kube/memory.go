package kube

import (
	"crypto/sha256"
	"sync"
	"time"
)

// memory remembers something about tokens, each for a time of its own. What is remembered is bounded: when it is full,
// it forgets what is out of date, and then anything. Tokens are kept as digests.
type memory[V any] struct {
	max     int
	mu      sync.Mutex
	entries map[[sha256.Size]byte]remembered[V]
}

type remembered[V any] struct {
	value V
	until time.Time
}

func newMemory[V any](limit int) *memory[V] {
	return &memory[V]{max: limit, entries: map[[sha256.Size]byte]remembered[V]{}}
}

func (m *memory[V]) get(hash [sha256.Size]byte, now time.Time) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[hash]
	if ok && now.Before(e.until) {
		return e.value, true
	}
	delete(m.entries, hash)
	var zero V
	return zero, false
}

func (m *memory[V]) put(hash [sha256.Size]byte, value V, now, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) >= m.max {
		m.makeRoom(now)
	}
	m.entries[hash] = remembered[V]{value: value, until: until}
}

func (m *memory[V]) makeRoom(now time.Time) {
	for hash, e := range m.entries {
		if !now.Before(e.until) {
			delete(m.entries, hash)
		}
	}
	for hash := range m.entries {
		if len(m.entries) < m.max {
			return
		}
		delete(m.entries, hash)
	}
}
