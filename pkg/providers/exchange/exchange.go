// Package exchange keeps what the tokens of pods were exchanged for: a cloud's credentials, one set for each service
// account, whatever the number of its pods.
//
// An exchange is made when credentials are first wanted and again before they expire; whoever comes meanwhile shares it,
// or goes on with what is still valid. If an exchange fails, credentials that are still valid are used, and it is tried
// again by the next read after a short pause. Nothing runs in the background, so that the credentials of pods that are
// gone are not renewed; they are forgotten when they have expired.
//
// A store that is read as the agent has the same Cache, with one set for all: what the agent logs in for (NewShared), or
// what needs no exchange or renews itself (Fixed). So a driver asks in one way, whoever reads.
//
// It holds no token. The drivers of the cloud stores use it.
package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	longestLead = 10 * time.Minute // before the end, credentials of an hour or more are renewed
	leadPart    = 5                // shorter ones when a fifth of their life is left
	retryPause  = 10 * time.Second // after a failure, while the old ones are valid
	timeout     = 30 * time.Second // of one exchange, whoever waits for it
)

// Func makes credentials, and says when they expire: for the service account of q with q's token, or for the agent.
type Func[T comparable] func(ctx context.Context, q providers.Query) (T, time.Time, error)

// Cache keeps credentials by service account. Make one with New, NewShared or Fixed. It is safe for concurrent use.
type Cache[T comparable] struct {
	exchange Func[T]
	fixed    *T   // non-nil: there is nothing to exchange
	shared   bool // one set for all

	mu       sync.Mutex
	accounts map[account]*entry[T]
}

type account struct{ namespace, name string }

// entry is guarded by the Cache's mutex, but for what a closed done has published.
type entry[T comparable] struct {
	credentials    T
	renew, expires time.Time  // zero: there are no credentials yet
	flight         *flight[T] // non-nil while an exchange is under way
}

type flight[T comparable] struct {
	done        chan struct{}
	credentials T
	err         error
}

// New returns an empty Cache of a store that is read as the pod.
func New[T comparable](exchange Func[T]) *Cache[T] {
	return &Cache[T]{exchange: exchange, accounts: map[account]*entry[T]{}}
}

// NewShared returns an empty Cache of a store that is read as the agent: whoever asks, credentials are the same.
func NewShared[T comparable](login Func[T]) *Cache[T] {
	return &Cache[T]{exchange: login, shared: true, accounts: map[account]*entry[T]{}}
}

// Fixed returns a Cache of a store that is read as the agent with credentials that stay.
func Fixed[T comparable](credentials T) *Cache[T] { return &Cache[T]{fixed: &credentials} }

// key returns whose credentials q is to be read with.
func (c *Cache[T]) key(q providers.Query) (account, error) {
	if c.shared {
		return account{}, nil
	}
	if q.Tokens == nil || q.Caller.Namespace == "" || q.Caller.ServiceAccount == "" {
		return account{}, providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens)
	}
	return account{q.Caller.Namespace, q.Caller.ServiceAccount}, nil
}

// Get returns credentials of the service account that q's caller runs as, or the agent's. The errors are those of the
// exchange, and Invalid for a query that is on behalf of no pod though the store is read as the pod.
func (c *Cache[T]) Get(ctx context.Context, q providers.Query) (T, error) {
	if c.fixed != nil {
		return *c.fixed, nil
	}
	var none T
	key, err := c.key(q)
	if err != nil {
		return none, err
	}
	now := time.Now()

	c.mu.Lock()
	e := c.accounts[key]
	if e == nil {
		c.forgetExpired(now)
		e = &entry[T]{}
		c.accounts[key] = e
	}
	valid := now.Before(e.expires)
	if valid && (now.Before(e.renew) || e.flight != nil) {
		defer c.mu.Unlock()
		return e.credentials, nil
	}
	f := e.flight
	if f == nil {
		f = &flight[T]{done: make(chan struct{})}
		e.flight = f
		go c.fly(context.WithoutCancel(ctx), key, e, f, q)
	}
	old := e.credentials
	c.mu.Unlock()

	select {
	case <-f.done:
	case <-ctx.Done():
		return none, providers.Errorf(providers.Unavailable, "wait for credentials: %w", ctx.Err())
	}
	if f.err != nil && valid {
		return old, nil
	}
	return f.credentials, f.err
}

// Drop forgets the credentials that q was read with, because the store does not accept them any more. If there are others by
// now, these stay: of many reads that were refused with the same, the first has them replaced. Fixed ones stay.
func (c *Cache[T]) Drop(q providers.Query, refused T) {
	key, err := c.key(q)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.accounts[key]; e != nil && e.credentials == refused {
		delete(c.accounts, key)
	}
}

// fly makes one exchange.
func (c *Cache[T]) fly(ctx context.Context, key account, e *entry[T], f *flight[T], q providers.Query) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begun := time.Now()
	credentials, expires, err := c.try(ctx, q)

	c.mu.Lock()
	e.flight = nil
	switch {
	case err == nil:
		e.credentials, e.expires = credentials, expires
		e.renew = expires.Add(-min(longestLead, expires.Sub(begun)/leadPart))
	case begun.Before(e.expires):
		e.renew = begun.Add(retryPause)
	case c.accounts[key] == e:
		delete(c.accounts, key)
	}
	c.mu.Unlock()
	f.credentials, f.err = credentials, err
	close(f.done)
}

// try turns a panic of the exchange into an error: it runs in no reader's goroutine, and would end the agent. What it
// panicked with may hold a token and is not shown.
func (c *Cache[T]) try(ctx context.Context, q providers.Query) (credentials T, expires time.Time, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("exchange for credentials: %w", errPanicked)
		}
	}()
	credentials, expires, err = c.exchange(ctx, q)
	if err == nil && !time.Now().Before(expires) {
		err = providers.Errorf(providers.Unavailable, "the credentials that were given have expired: compare the clocks")
	}
	return credentials, expires, err
}

var errPanicked = errors.New("driver panicked")

// forgetExpired drops the accounts that nobody has asked for while their credentials ran out. c.mu is held.
func (c *Cache[T]) forgetExpired(now time.Time) {
	for key, e := range c.accounts {
		if e.flight == nil && !now.Before(e.expires) {
			delete(c.accounts, key)
		}
	}
}
