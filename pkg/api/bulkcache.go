package api

import (
	"container/list"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/scope"
)

// bulkCacheBytes bounds the encoded bulk answers that are kept.
const bulkCacheBytes = 32 << 20

// bulkOverhead is what an entry costs besides its body and the texts of its key: list element, map cell.
const bulkOverhead = 512

// bulkKey is what an encoded answer depends on besides its basis.
type bulkKey struct {
	id     scope.Identity
	ref    scope.Ref // its Name is empty
	format format
}

// bulkBasis is what an encoded answer was made from: it is good only as long as both are the same.
type bulkBasis struct {
	policy *scope.Policy
	epoch  uint64 // of the store
}

// bulkCache keeps encoded bulk answers, the least recently used of which give way. It is safe for concurrent use.
type bulkCache struct {
	mu      sync.Mutex
	entries map[bulkKey]*list.Element // of *bulkEntry
	recent  *list.List                // most recently used first
	bytes   int
	limit   int
}

type bulkEntry struct {
	key     bulkKey
	basis   bulkBasis
	answer  bulkAnswer
	expires time.Time
}

func newBulkCache(limit int) *bulkCache {
	return &bulkCache{entries: map[bulkKey]*list.Element{}, recent: list.New(), limit: limit}
}

// get returns the answer for key if it was made from basis and none of its parts has expired.
func (c *bulkCache) get(key bulkKey, basis bulkBasis, now time.Time) (bulkAnswer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.entries[key]
	if !ok {
		return bulkAnswer{}, false
	}
	entry := element.Value.(*bulkEntry)
	if entry.basis != basis || !now.Before(entry.expires) {
		c.remove(element)
		return bulkAnswer{}, false
	}
	c.recent.MoveToFront(element)
	return entry.answer, true
}

// put keeps an answer until expires, unless it is too large.
func (c *bulkCache) put(key bulkKey, basis bulkBasis, answer bulkAnswer, expires time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		c.remove(element)
	}
	entry := &bulkEntry{key: key, basis: basis, answer: answer, expires: expires}
	if entry.size() > c.limit {
		return
	}
	c.entries[key] = c.recent.PushFront(entry)
	c.bytes += entry.size()
	for c.bytes > c.limit {
		c.remove(c.recent.Back())
	}
}

// remove forgets an entry. c.mu is held.
func (c *bulkCache) remove(element *list.Element) {
	entry := c.recent.Remove(element).(*bulkEntry)
	delete(c.entries, entry.key)
	c.bytes -= entry.size()
}

func (e *bulkEntry) size() int {
	id, ref := e.key.id, e.key.ref
	return bulkOverhead + cap(e.answer.body) + len(id.Namespace) + len(id.ServiceAccount) + len(id.Pod) + len(id.PodUID) +
		len(id.AppID) + len(id.Configuration) + len(ref.Store) + len(ref.Version) + len(ref.Stage) + len(ref.Namespace)
}
