package watch

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// takeReaders is how many secrets one Take reads at a time. As a rule they are in the cache.
const takeReaders = 16

// errRemoved is why a secret that a store no longer lists has no content.
var errRemoved = errors.New("secret was removed from the store")

// Take returns what is new: of every secret its state when that is first known, and then when it is another. It may
// return nothing. After an error the Subscription is of no more use. The error is an *EndedError, ErrTooMany or
// ctx.Err().
func (s *Subscription) Take(ctx context.Context) ([]Update, error) {
	news, policy, err := s.news()
	if err != nil {
		return nil, err
	}
	group, readCtx := errgroup.WithContext(ctx)
	group.SetLimit(takeReaders)
	for _, n := range news {
		group.Go(func() error { return n.find(readCtx, policy) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var updates []Update
	for _, n := range news {
		if n.ref.Name == "" && !n.seen.failed {
			gone, err := s.follow(ctx, policy, n)
			if err != nil {
				return nil, err
			}
			updates = append(updates, gone...)
		} else if !n.denied && n.told != n.last {
			updates = append(updates, n.update)
		}
	}
	s.hub.metrics.told(updates)
	s.noteTold(news)
	return updates, nil
}

// news is a member that has something to tell: first what its topic has seen, then what the caller is told.
type news struct {
	*member
	ref   scope.Ref
	last  state
	seen  state
	names []string // of a listing
	err   error    // if seen is a failure
	read  resolve.Request

	update Update
	told   state
	denied bool
}

// news returns the members that have something to tell, sorted, and the policy to decide by. Members that the policy no
// longer allows are not among them.
func (s *Subscription) news() ([]*news, *scope.Policy, error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	recheck := s.recheck
	s.recheck = false
	policy := h.policy.Policy() // after recheck was seen: what set it put the policy in force before
	var all []*news
	for ref, m := range s.members {
		if recheck {
			if _, err := authorize(policy, s.id, ref); err != nil && m.listed {
				s.remove(ref)
				continue
			} else if err != nil {
				return nil, nil, &EndedError{ref, err}
			}
		}
		relists := recheck && ref.Name == "" // other names may be allowed now
		t := m.topic
		if !t.seen.known || !m.dirty && !relists {
			continue
		}
		m.dirty = false
		all = append(all, &news{
			member: m, ref: ref, last: m.last, seen: t.seen, names: t.names, err: t.err,
			read: resolve.Request{Metadata: s.metadata, MaxAge: t.interval, Origin: Origin},
		})
	}
	slices.SortFunc(all, func(a, b *news) int { return strings.Compare(a.ref.Name, b.ref.Name) })
	return all, policy, nil
}

// find sets the update. It reads the secret if the topic has seen other content than the caller was told.
func (n *news) find(ctx context.Context, policy *scope.Policy) error {
	grant, err := authorize(policy, n.sub.id, n.ref)
	switch {
	case err != nil && n.listed:
		n.denied = true
		return nil
	case err != nil:
		return &EndedError{n.ref, err}
	}
	n.told = n.seen
	n.update = Update{Ref: n.ref, Digest: n.seen.digest, Stale: n.seen.stale, Err: n.err}
	known := n.last.known && !n.last.failed && n.last.digest == n.seen.digest
	if n.seen.failed || known || n.ref.Name == "" {
		return nil
	}
	n.read.Grant, n.read.Tokens = grant, n.sub.hub.tokens(n.sub.id)
	result, err := n.sub.hub.resolver.Resolve(ctx, n.read)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		n.told, n.update = failedState(err), Update{Ref: n.ref, Err: err}
	default:
		n.told, n.update = contentState(result), Update{Ref: n.ref, Result: &result, Digest: result.Digest, Stale: result.Stale}
	}
	return nil
}

// follow makes members of the names that a listing has and that the caller may read, and removes those that it no
// longer has. It returns the removals.
func (s *Subscription) follow(ctx context.Context, policy *scope.Policy, n *news) ([]Update, error) {
	listed := make(map[string]bool, len(n.names))
	allowed := make([]scope.Ref, 0, len(n.names))
	ref := n.ref
	for _, ref.Name = range n.names {
		listed[ref.Name] = true
		if _, err := policy.Authorize(s.id, ref); err == nil {
			allowed = append(allowed, ref)
		}
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	var gone []Update
	for ref, m := range s.members {
		if !m.listed || listed[ref.Name] {
			continue
		}
		if m.last.known && !m.last.failed {
			err := &providers.Error{Store: ref.Store, Name: ref.Name, Kind: providers.NotFound, Err: errRemoved}
			gone = append(gone, Update{Ref: ref, Err: err})
		}
		s.remove(ref)
	}
	for _, ref := range allowed {
		if err := s.add(ctx, ref, true); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(gone, func(a, b Update) int { return strings.Compare(a.Ref.Name, b.Ref.Name) })
	return gone, nil
}

// noteTold notes what the caller was told, and looks again where a topic has seen something else meanwhile.
func (s *Subscription) noteTold(all []*news) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, n := range all {
		n.member.last = n.told
	}
}
