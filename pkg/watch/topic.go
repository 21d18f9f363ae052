package watch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

const (
	shortestPause   = time.Second      // between two reads of a topic, unless a change is announced
	longestRetry    = 30 * time.Second // before a store that fails is asked again
	defaultInterval = time.Minute      // where no answer has told the store's refresh interval yet
	storeReaders    = 16               // topics of one store that are read at a time
)

// topicKey is what one answer depends on. The service account is part of it because a store may authorise pods itself;
// where it does not, the resolver's cache makes one store call of all topics of a secret.
type topicKey struct {
	ref                scope.Ref // its Name is empty for a listing
	metadata           string
	namespace, account string
}

func keyOf(id scope.Identity, ref scope.Ref, metadata map[string]string) topicKey {
	k := topicKey{ref: ref, namespace: id.Namespace, account: id.ServiceAccount}
	if len(metadata) > 0 {
		if text, err := json.Marshal(metadata); err == nil { // sorted; a map of strings always has a JSON form
			k.metadata = string(text)
		}
	}
	return k
}

// storeTopics are the topics of one store.
type storeTopics struct {
	topics map[topicKey]*topic
	named  map[string]map[*topic]struct{} // secret name → topics; empty name → listings
	slots  chan struct{}                  // holds one element per read under way
}

// topicFor returns the topic of a key, which runs from now on. The Hub's mutex is held.
func (h *Hub) topicFor(ctx context.Context, k topicKey, metadata map[string]string) *topic {
	s := h.stores[k.ref.Store]
	if s == nil {
		s = &storeTopics{
			topics: map[topicKey]*topic{}, named: map[string]map[*topic]struct{}{}, slots: make(chan struct{}, storeReaders),
		}
		h.stores[k.ref.Store] = s
	}
	if t := s.topics[k]; t != nil {
		return t
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // it goes on for others when the first watcher leaves
	t := &topic{key: k, metadata: metadata, nudge: make(chan struct{}, 1), slots: s.slots, stop: stop, members: map[*member]struct{}{}}
	s.topics[k] = t
	if s.named[k.ref.Name] == nil {
		s.named[k.ref.Name] = map[*topic]struct{}{}
	}
	s.named[k.ref.Name][t] = struct{}{}
	h.topics++
	go h.run(ctx, t)
	return t
}

// drop ends a topic that nobody watches any more. The Hub's mutex is held.
func (h *Hub) drop(t *topic) {
	t.stop()
	ref := t.key.ref
	s := h.stores[ref.Store]
	delete(s.topics, t.key)
	delete(s.named[ref.Name], t)
	if len(s.named[ref.Name]) == 0 {
		delete(s.named, ref.Name)
	}
	if len(s.topics) == 0 {
		delete(h.stores, ref.Store)
	}
	h.topics--
}

// topic is one secret, or the listing of a store, that somebody watches.
type topic struct {
	key      topicKey
	metadata map[string]string
	nudge    chan struct{} // level trigger: the store may have something else
	slots    chan struct{} // the store's
	stop     context.CancelFunc

	// Guarded by the Hub's mutex.
	members  map[*member]struct{}
	seen     state
	err      error         // if seen is a failure
	names    []string      // of a listing
	interval time.Duration // the store's refresh interval; zero: not known yet
}

// state is what watchers can tell apart. The zero state is that nothing is known.
type state struct {
	known  bool
	digest resolve.Digest // of the content; zero for a failure
	stale  bool
	failed bool
	kind   providers.Kind // of the failure
	closed bool           // the failure is that the store is not in service
}

func contentState(r resolve.Result) state {
	return state{known: true, digest: r.Digest, stale: r.Stale}
}

func failedState(err error) state {
	return state{known: true, failed: true, kind: providers.KindOf(err), closed: errors.Is(err, resolve.ErrStoreClosed)}
}

// run reads the topic again and again until ctx ends.
func (h *Hub) run(ctx context.Context, t *topic) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.nudge:
		case <-timer.C:
		}
		select {
		case t.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		pause := h.check(ctx, t)
		<-t.slots
		timer.Reset(pause)
	}
}

// check reads the topic once, wakes the watchers to whom the answer is new, and returns when to read again.
func (h *Hub) check(ctx context.Context, t *topic) time.Duration {
	req, ok := h.request(t)
	if !ok { // none of the watchers may read it any more; they are about to leave
		return longestRetry
	}
	var seen state
	var names []string
	var expires time.Time
	interval := req.MaxAge
	var err error
	if t.key.ref.Name == "" {
		var l resolve.Listing
		l, err = h.resolver.List(ctx, req)
		seen, names, expires = state{known: true, digest: namesDigest(l.Names), stale: l.Stale}, l.Names, l.ExpiresAt
	} else {
		var r resolve.Result
		r, err = h.resolver.Resolve(ctx, req)
		seen, expires = contentState(r), r.ExpiresAt
		interval = cmp.Or(r.RefreshInterval, interval)
	}
	if ctx.Err() != nil {
		return longestRetry
	}
	if err != nil {
		seen = failedState(err)
	}
	h.mu.Lock()
	t.interval = interval
	t.see(seen, names, err)
	h.mu.Unlock()
	return pauseAfter(seen, err, cmp.Or(interval, defaultInterval), time.Until(expires))
}

// request returns a read of the topic on behalf of one of its watchers that may read it.
func (h *Hub) request(t *topic) (resolve.Request, bool) {
	h.mu.Lock()
	req := resolve.Request{Metadata: t.metadata, MaxAge: t.interval, Origin: Origin}
	callers := make(map[scope.Identity]struct{}, 1)
	for m := range t.members {
		callers[m.sub.id] = struct{}{}
	}
	h.mu.Unlock()
	policy := h.policy.Policy()
	for id := range callers {
		if grant, err := authorize(policy, id, t.key.ref); err == nil {
			req.Grant, req.Tokens = grant, h.tokens(id)
			return req, true
		}
	}
	return req, false
}

// authorize asks the policy for a secret, or for a listing if ref has no name.
func authorize(p *scope.Policy, id scope.Identity, ref scope.Ref) (scope.Grant, error) {
	if ref.Name == "" {
		return p.AuthorizeList(id, ref)
	}
	return p.Authorize(id, ref)
}

// see notes an answer and wakes the watchers to whom it is new. The Hub's mutex is held.
func (t *topic) see(seen state, names []string, err error) {
	t.seen, t.names, t.err = seen, names, err
	for m := range t.members {
		if m.last != seen {
			m.dirty = true
			signal(m.sub.ready)
		}
	}
}

// pauseAfter returns when to read again after an answer that expires after left.
func pauseAfter(seen state, err error, interval, left time.Duration) time.Duration {
	refused := seen.failed && (seen.kind == providers.NotFound || seen.kind == providers.Denied)
	switch {
	case seen.stale || seen.failed && !refused:
		left = max(min(interval, longestRetry), providers.RetryAfter(err))
	case refused:
		left = interval
	}
	left = max(left, shortestPause)
	return left + rand.N(left/10) // so that what came together does not stay together
}

// namesDigest tells listings apart.
func namesDigest(names []string) (d resolve.Digest) {
	hash := sha256.New()
	for _, name := range names {
		_ = binary.Write(hash, binary.BigEndian, uint64(len(name))) // a hash takes everything
		_, _ = io.WriteString(hash, name)
	}
	copy(d[:], hash.Sum(nil))
	return d
}
