package resolve

import (
	"container/list"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// key is what one answer is kept under: every selector of the request and, where the store authorises pods itself,
// whose rights the answer was given for.
type key struct {
	scope.Ref
	list                           bool
	metadata                       string // see canonical
	callerNamespace, callerAccount string
	callerPod                      string // its UID, where it matters which pod of the account asks
	own                            string // see Request.Own
}

// concerns tells whether a change of the secret called name may change the answer. Any change may add or remove a name,
// so a listing, which has no name, is always concerned.
func (k key) concerns(name string) bool { return name == "" || k.list || k.Name == name }

// canonical returns request metadata as text, the same text only for the same metadata. What a driver makes of metadata
// is not known here, so an answer is kept for those who sent the same: nobody can plant an answer for others.
func canonical(metadata map[string]string) string {
	if len(metadata) == 0 {
		return ""
	}
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
		value := metadata[name]
		b = append(binary.AppendUvarint(b, uint64(len(value))), value...)
	}
	return string(b)
}

// answer is what the store said about one key: a payload, a listing or a refusal. It is immutable.
type answer struct {
	payload providers.Payload
	names   []string
	refusal *providers.Error // NotFound or Denied; nil for a payload or listing
	digest  Digest           // of the payload
	fetched time.Time        // when the store was asked: the content is at least as new

	transferred time.Time // when the store was asked for the value itself; at most fetched
}

// until returns when a is older than maxAge or its content ceases to be valid.
func (a *answer) until(maxAge time.Duration) time.Time {
	t := a.fetched.Add(maxAge)
	if end := a.payload.NotAfter; !end.IsZero() && end.Before(t) {
		return end
	}
	return t
}

// same tells whether a reader could not tell a from b, times aside.
func (a *answer) same(b *answer) bool {
	if a.refusal != nil || b.refusal != nil {
		return a.refusal != nil && b.refusal != nil && a.refusal.Kind == b.refusal.Kind
	}
	return a.digest == b.digest && a.payload.Version == b.payload.Version && slices.Equal(a.names, b.names)
}

// What an entry costs beyond its bytes, measured and rounded up: the entry, the answer, the list element and the map
// slot; and per field the map slot, the Value and its closure.
const (
	entryOverhead = 850
	fieldOverhead = 100
	nameOverhead  = 16
)

// size returns how many bytes a takes in the cache.
func (a *answer) size(k key) int64 {
	n := entryOverhead + len(k.Store) + len(k.Name) + len(k.Version) + len(k.Stage) + len(k.Namespace) +
		len(k.metadata) + len(k.callerNamespace) + len(k.callerAccount) + len(k.own) + len(a.payload.Version)
	for name, v := range a.payload.Fields {
		n += fieldOverhead + len(name) + v.Len()
	}
	for _, name := range a.names {
		n += nameOverhead + len(name)
	}
	return int64(n)
}

// entry is a cached answer and what became of it.
type entry struct {
	key      key
	answer   *answer
	bytes    int64
	outdated bool // no longer fresh, whatever its age
	failing  bool // a refresh has failed since, and this has been logged

	before, after *entry // others of the same name
}

// cache keeps the answers of one store, up to a number and a size; the least recently used ones go first. An answer
// stays after it has expired, as the last good one. The caller holds the installation's lock.
type cache struct {
	entries    map[key]*list.Element // key → *entry in recent
	named      map[string]*entry     // secret name → first of its entries; empty name → listings
	recent     list.List             // most recently used first
	bytes      int64
	maxEntries int
	maxBytes   int64
}

func newCache(maxEntries int, maxBytes int64) *cache {
	return &cache{entries: map[key]*list.Element{}, named: map[string]*entry{}, maxEntries: maxEntries, maxBytes: maxBytes}
}

// get returns the entry of k, or nil, and marks it as used.
func (c *cache) get(k key) *entry {
	el, ok := c.entries[k]
	if !ok {
		return nil
	}
	c.recent.MoveToFront(el)
	return el.Value.(*entry)
}

// put keeps a as the answer for k. changed says that another answer was there before, lost that an answer which may
// have been given can no longer be compared with the next one.
func (c *cache) put(k key, a *answer, outdated bool) (changed, lost bool) {
	if before := c.get(k); before != nil {
		changed = !before.answer.same(a)
		c.drop(k)
	}
	size := a.size(k)
	if size > c.maxBytes { // would evict everything and still not fit
		return changed, true
	}
	e := &entry{key: k, answer: a, bytes: size, outdated: outdated}
	c.entries[k] = c.recent.PushFront(e)
	c.link(e)
	c.bytes += size
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.drop(c.recent.Back().Value.(*entry).key)
		lost = true
	}
	return changed, lost
}

// drop forgets k and reports whether there was anything to forget.
func (c *cache) drop(k key) bool {
	el, ok := c.entries[k]
	if !ok {
		return false
	}
	e := c.recent.Remove(el).(*entry)
	c.bytes -= e.bytes
	c.unlink(e)
	delete(c.entries, k)
	return true
}

// link puts e before the other entries of its name.
func (c *cache) link(e *entry) {
	e.after = c.named[e.key.Name]
	if e.after != nil {
		e.after.before = e
	}
	c.named[e.key.Name] = e
}

// unlink takes e out of the entries of its name.
func (c *cache) unlink(e *entry) {
	if e.after != nil {
		e.after.before = e.before
	}
	switch {
	case e.before != nil:
		e.before.after = e.after
	case e.after != nil:
		c.named[e.key.Name] = e.after
	default:
		delete(c.named, e.key.Name)
	}
}

// outdate marks what a change of name concerns. It looks at nothing else: when a store announces thousands of changes one
// by one, readers must not wait for as many walks through the cache.
func (c *cache) outdate(name string) {
	if name == "" {
		for _, el := range c.entries {
			el.Value.(*entry).outdated = true
		}
		return
	}
	for _, concerned := range []string{name, ""} {
		for e := c.named[concerned]; e != nil; e = e.after {
			e.outdated = true
		}
	}
}
