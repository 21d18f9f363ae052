package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

// Watches is what the API needs of watch.Hub.
type Watches interface {
	Subscribe(ctx context.Context, id scope.Identity, refs []scope.Ref, metadata map[string]string) (*watch.Subscription, error)
}

// commentInterval is how long a stream of events is silent before a comment shows that it is alive.
const commentInterval = 15 * time.Second

// follower is what becomes of a subscription's updates.
type follower struct {
	id      scope.Identity
	readmit func(ctx context.Context) (scope.Identity, error) // attests the caller again
	tell    func(updates []watch.Update) error
	idle    func() error // called when there was nothing to tell for a while; may be nil
}

// follow passes updates on until ctx ends, the agent stops or the caller may no longer be told. It returns ctx.Err(),
// a *fault, or what a func of f returned. Nothing is passed on before the caller is attested again: a stream
// can outlive the token or the pod that it was opened for.
func (c *core) follow(ctx context.Context, sub *watch.Subscription, f follower) error {
	var silent <-chan time.Time
	if f.idle != nil {
		ticker := time.NewTicker(commentInterval)
		defer ticker.Stop()
		silent = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.stopping:
			return newFault(stopping, reasonStopping)
		case <-silent:
			if err := f.idle(); err != nil {
				return err
			}
		case <-sub.Ready():
			updates, err := c.take(ctx, sub, f)
			if err != nil {
				return err
			}
			if len(updates) == 0 {
				continue
			}
			if err := f.tell(updates); err != nil {
				return err
			}
		}
	}
}

// take returns what is new for a caller that is still who it was.
func (c *core) take(ctx context.Context, sub *watch.Subscription, f follower) ([]watch.Update, error) {
	if id, err := f.readmit(ctx); err != nil || id != f.id {
		return nil, newFault(unattested, reasonUnattested)
	}
	updates, err := sub.Take(ctx)
	if err != nil {
		return nil, c.watchFault(ctx, f.id, err)
	}
	return updates, nil
}

// watchFault translates an error of package watch; a denial is put on record.
func (c *core) watchFault(ctx context.Context, id scope.Identity, err error) error {
	if ended, ok := errors.AsType[*watch.EndedError](err); ok {
		return c.refuse(ctx, c.policy.Policy(), id, ended.Ref, ended.Err)
	}
	if errors.Is(err, watch.ErrTooMany) {
		return newFault(watchLimit, reasonLimit)
	}
	return err
}

// subscribe returns a subscription to the secret that q asks for. The error is a *fault.
func (c *core) subscribe(ctx context.Context, id scope.Identity, q query) (*watch.Subscription, Store, error) {
	store, err := c.openStore(ctx, c.policy.Policy(), id, q)
	if err != nil {
		return nil, Store{}, err
	}
	ref, rest := q.selectors(store.Selectors)
	sub, err := c.watches.Subscribe(ctx, id, []scope.Ref{ref}, rest)
	if err != nil {
		return nil, Store{}, c.watchFault(ctx, id, err)
	}
	return sub, store, nil
}

// errChanged ends waiting for a change.
var errChanged = errors.New("the secret changed")

// await returns when the secret that q asks for is no longer what has the entity tag, at the latest after wait. The error
// is a *fault, or that of ctx.
func (c *core) await(ctx context.Context, f follower, q query, tag string, wait time.Duration) error {
	sub, _, err := c.subscribe(ctx, f.id, q)
	if err != nil {
		return err
	}
	defer sub.Close()
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	f.tell = func(updates []watch.Update) error {
		for _, u := range updates {
			if u.Err != nil || entityTag(u.Digest) != tag {
				return errChanged
			}
		}
		return nil
	}
	err = c.follow(waiting, sub, f)
	if f, ok := errors.AsType[*fault](err); ok && f.reason != reasonStopping {
		return f
	}
	return ctx.Err()
}

// streams are the subscriptions that can be ended by their id. The zero value is ready. It is safe for concurrent use.
type streams struct {
	mu  sync.Mutex
	end map[streamKey]context.CancelFunc
}

// streamKey names a subscription: only the caller that made it can end it.
type streamKey struct {
	caller scope.Identity
	id     string
}

// open returns a context that ends when the subscription is ended, and a func to forget it.
func (s *streams) open(ctx context.Context, k streamKey) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.end = map[streamKey]context.CancelFunc{}
	}
	s.end[k] = cancel
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.end, k)
		cancel()
	}
}

// close ends a subscription and reports whether there was one.
func (s *streams) close(k streamKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	cancel, ok := s.end[k]
	if ok {
		cancel()
	}
	return ok
}
