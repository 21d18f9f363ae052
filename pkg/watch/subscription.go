package watch

import (
	"context"

	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// Subscription is one caller's interest in secrets. Its methods but Close must not be called concurrently.
type Subscription struct {
	hub      *Hub
	id       scope.Identity
	metadata map[string]string
	ready    chan struct{}

	// Guarded by the Hub's mutex.
	members map[scope.Ref]*member
	recheck bool // another policy is in force
}

// member is one secret of a Subscription.
type member struct {
	sub    *Subscription
	topic  *topic
	listed bool  // because the store lists it, not because the caller named it
	dirty  bool  // the topic has seen something else than last
	last   state // what the caller was told
}

// Update is what became of a secret.
type Update struct {
	Ref scope.Ref // its Name is empty where listing a store failed
	// Result is the content. It is nil if Err is set, and if the content is what the last Update had: only Stale differs.
	Result *resolve.Result
	Digest resolve.Digest // of the content
	Stale  bool           // the store fails, and this is the last good content
	Err    error          // as of resolve.Resolver: why there is no content now
}

// EndedError says that the policy took the right to read Ref. Err is the policy's error.
type EndedError struct {
	Ref scope.Ref
	Err error
}

// Error returns the policy's text.
func (e *EndedError) Error() string { return e.Err.Error() }

// Unwrap returns the policy's error.
func (e *EndedError) Unwrap() error { return e.Err }

// Subscribe makes a Subscription of id to refs. A Ref without a name stands for all secrets of the store that id may
// read, now or later. metadata is sent with each read. The error is an *EndedError or ErrTooMany. The caller must Close
// the Subscription; the end of ctx does not.
func (h *Hub) Subscribe(ctx context.Context, id scope.Identity, refs []scope.Ref, metadata map[string]string) (*Subscription, error) {
	policy := h.policy.Policy()
	for _, ref := range refs {
		if _, err := authorize(policy, id, ref); err != nil {
			return nil, &EndedError{ref, err}
		}
	}
	s := &Subscription{hub: h, id: id, metadata: metadata, ready: make(chan struct{}, 1), members: map[scope.Ref]*member{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs[s] = struct{}{}
	for _, ref := range refs {
		if err := s.add(ctx, ref, false); err != nil {
			s.close()
			return nil, err
		}
	}
	s.recheck = h.policy.Policy() != policy // PolicyChanged may have passed before s was known
	if s.recheck {
		signal(s.ready)
	}
	return s, nil
}

// Ready is ready to receive from when Take may have something to tell. What was received is for the next Take.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Close ends the Subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.close()
}

// add makes ref a member. The Hub's mutex is held.
func (s *Subscription) add(ctx context.Context, ref scope.Ref, listed bool) error {
	h := s.hub
	switch {
	case s.members[ref] != nil:
		return nil
	case h.perCaller[s.id] >= h.maxPerCaller || h.watched >= h.maxPerNode:
		return ErrTooMany
	}
	h.perCaller[s.id]++
	h.watched++
	t := h.topicFor(ctx, keyOf(s.id, ref, s.metadata), s.metadata)
	m := &member{sub: s, topic: t, listed: listed, dirty: t.seen.known}
	t.members[m] = struct{}{}
	s.members[ref] = m
	if m.dirty {
		signal(s.ready)
	}
	return nil
}

// remove makes ref no longer a member. The Hub's mutex is held.
func (s *Subscription) remove(ref scope.Ref) {
	h, m := s.hub, s.members[ref]
	delete(s.members, ref)
	delete(m.topic.members, m)
	if len(m.topic.members) == 0 {
		h.drop(m.topic)
	}
	h.watched--
	h.perCaller[s.id]--
	if h.perCaller[s.id] == 0 {
		delete(h.perCaller, s.id)
	}
}

// close removes all members. The Hub's mutex is held.
func (s *Subscription) close() {
	for ref := range s.members {
		s.remove(ref)
	}
	delete(s.hub.subs, s)
}
