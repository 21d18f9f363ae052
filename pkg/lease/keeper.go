package lease

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// Store is what issues: a provider.
type Store interface {
	providers.Provider
	providers.Issuer
}

// Keeper keeps what one store has issued, by key. It is safe for concurrent use; calls for one key take turns.
type Keeper[K comparable] struct {
	store Store

	mu    sync.Mutex
	kept  map[K]*entry
	sweep int // how many make it worth looking for what has ended
	swept time.Time
}

const (
	firstSweep = 64
	sweepPause = time.Second
	maxKept    = 10_000 // arguments are the readers' choice, and each set of them has something issued
)

// New returns a Keeper that keeps nothing yet.
func New[K comparable](store Store) *Keeper[K] {
	return &Keeper[K]{store: store, kept: map[K]*entry{}, sweep: firstSweep}
}

// entry is what is kept under one key. Whoever has the turn owns the rest.
type entry struct {
	turn   chan struct{}
	handed bool // guarded by Keeper.mu; see Hand
	issued
	old []providers.Lease // replaced, and perhaps still alive
}

// Inherit takes over what other keeps, to go on with it under the same keys. Before it is given to anybody, the store is
// asked whether it knows it. Other must not be used any more.
func (k *Keeper[K]) Inherit(other *Keeper[K]) {
	other.mu.Lock()
	defer other.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, e := range other.kept {
		select {
		case e.turn <- struct{}{}:
			if e.known() {
				next := &entry{turn: make(chan struct{}, 1), handed: e.handed, issued: e.issued, old: e.old}
				next.unchecked = true
				k.kept[key] = next
			}
			<-e.turn
		default: // it is being replaced just now
		}
	}
}

// Fetch returns what is kept under key, prolonged if it is time for that, or what the store issues now. An answer that
// was not issued is passed on and not kept. An error of the store leaves what is kept as it is.
func (k *Keeper[K]) Fetch(ctx context.Context, key K, q providers.Query) (providers.Payload, error) {
	e, leave, err := k.enter(ctx, key)
	if err != nil {
		return providers.Payload{}, err
	}
	defer leave()
	if e.known() {
		good, err := k.freshen(ctx, e, q)
		if err != nil {
			return providers.Payload{}, err
		}
		if good {
			return e.shown(time.Now()), nil
		}
		q.Known = ""
	}
	asked := time.Now()
	p, err := k.store.Fetch(ctx, q)
	if err != nil || !p.Issued && p.Lease == nil {
		return p, err
	}
	if e.known() && e.lease.ID != "" {
		e.old = append(e.old, e.lease)
	}
	e.issued = issuedAt(p, asked)
	return e.shown(asked), nil
}

// Adopt makes p, with its Lease, what is kept under key, unless something is. p was issued by an earlier process at the
// given time. The error is NotFound if the store knows no such lease any more.
func (k *Keeper[K]) Adopt(ctx context.Context, key K, q providers.Query, p providers.Payload, asked time.Time) error {
	e, leave, err := k.enter(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	if e.known() {
		return nil
	}
	found := issuedAt(p, asked)
	found.unchecked = true
	e.issued = found
	good, err := k.freshen(ctx, e, q)
	if err != nil || !good {
		e.issued = issued{}
	}
	if err == nil && !good {
		return providers.Errorf(providers.NotFound, "what was issued has ended, or is about to")
	}
	return err
}

// Hand notes that somebody has what is kept under key who will not say when he is done with it: it is left to end by
// itself.
func (k *Keeper[K]) Hand(key K) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.kept[key]; e != nil {
		e.handed = true
	}
}

// Handed tells whether Hand was called for what is kept under key.
func (k *Keeper[K]) Handed(key K) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.kept[key]
	return e != nil && e.handed
}

// Drop forgets what is kept under key, and has the store end it.
func (k *Keeper[K]) Drop(ctx context.Context, key K, q providers.Query) error {
	e, leave, err := k.enter(ctx, key)
	if err != nil {
		return err
	}
	leases := e.old
	if e.known() && e.lease.ID != "" {
		leases = append(leases, e.lease)
	}
	e.issued, e.old = issued{}, nil
	leave()
	var failed error
	for _, l := range leases {
		if err := k.store.Revoke(ctx, q, l); err != nil {
			failed = err
		}
	}
	return failed
}

// freshen reports whether what e keeps may be given out, after prolonging it where that is due.
func (k *Keeper[K]) freshen(ctx context.Context, e *entry, q providers.Query) (bool, error) {
	now := time.Now()
	if e.over(now) {
		return false, nil
	}
	if e.lease.ID != "" && e.renewalDue(now) {
		l, err := k.store.Renew(ctx, q, e.lease)
		if providers.KindOf(err) == providers.NotFound {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		e.renewed(l, now)
	}
	e.unchecked = false
	return !e.replacementDue(time.Now()), nil
}

// enter waits for the turn of a key. leave gives it back, and forgets a key of which nothing is kept. The error is
// Throttled if too much is kept already, or why ctx ended.
func (k *Keeper[K]) enter(ctx context.Context, key K) (e *entry, leave func(), err error) {
	for {
		k.mu.Lock()
		e = k.kept[key]
		if e == nil {
			if !k.room(time.Now()) {
				k.mu.Unlock()
				return nil, nil, providers.Errorf(providers.Throttled, "%d secrets that the store has issued are alive, which are enough", maxKept)
			}
			e = &entry{turn: make(chan struct{}, 1)}
			k.kept[key] = e
		}
		k.mu.Unlock()
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		k.mu.Lock()
		current := k.kept[key] == e
		k.mu.Unlock()
		if current {
			return e, func() { k.leave(key, e) }, nil
		}
		<-e.turn // it was forgotten meanwhile
	}
}

// room reports whether one more can be kept. Now and then it forgets what has ended. The caller holds k.mu.
func (k *Keeper[K]) room(now time.Time) bool {
	if len(k.kept) < k.sweep {
		return true
	}
	if now.Sub(k.swept) < sweepPause {
		return len(k.kept) < maxKept
	}
	k.swept = now
	for key, e := range k.kept {
		select {
		case e.turn <- struct{}{}:
			if e.over(now) {
				delete(k.kept, key)
			}
			<-e.turn
		default: // somebody needs it
		}
	}
	k.sweep = min(max(2*len(k.kept), firstSweep), maxKept)
	return len(k.kept) < maxKept
}

func (k *Keeper[K]) leave(key K, e *entry) {
	k.mu.Lock()
	if !e.known() && len(e.old) == 0 && k.kept[key] == e {
		delete(k.kept, key)
	}
	k.mu.Unlock()
	<-e.turn
}

// shown returns what is kept as an answer of now: the payload belongs to the caller.
func (i issued) shown(now time.Time) providers.Payload {
	p := i.payload
	p.Fields = maps.Clone(p.Fields)
	if i.lease.ID != "" {
		l := i.lease
		l.Duration = max(i.ends().Sub(now), 0)
		p.Lease, p.NotAfter = &l, i.ends()
	}
	p.Issued = true
	return p
}
