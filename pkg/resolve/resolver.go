package resolve

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
)

// Options are what a Resolver is made of. Every field may be left zero.
type Options struct {
	Logger     *slog.Logger          // nil: discard
	Audit      *slog.Logger          // one record per read, of which attributes without a value are left out; nil: none
	Registerer prometheus.Registerer // nil: no metrics
	// Changed is called after cached answers for a secret became outdated: by a notification or Invalidate, by Install or
	// Remove, or because a refresh returned other content. An empty name stands for every secret of the store. It is
	// called from several goroutines, may be called for secrets that nobody has read, and must not block.
	Changed func(store, name string)
}

// Resolver answers reads from a cache in front of the installed stores. Make one with New. All methods are safe for
// concurrent use.
type Resolver struct {
	log     *slog.Logger
	audit   slog.Handler
	metrics *metrics
	changed func(store, name string)
	digests digester
	epochs  atomic.Uint64 // the last epoch given to any store

	stores   atomic.Pointer[map[string]*installation] // store name → installation; the map is replaced, never changed
	arrived  chan struct{}                            // level trigger for Run: the stores changed
	draining sync.WaitGroup                           // one per provider that is being closed

	auditFailing atomic.Bool // the last audit record was lost

	mu     sync.Mutex // serialises changes of stores
	closed bool
}

// New returns a Resolver with no store installed. It starts nothing.
func New(opts Options) *Resolver {
	r := &Resolver{
		log:     orDiscard(opts.Logger),
		audit:   orDiscard(opts.Audit).Handler(),
		changed: opts.Changed,
		arrived: make(chan struct{}, 1),
	}
	if r.changed == nil {
		r.changed = func(string, string) {}
	}
	_, _ = rand.Read(r.digests.key[:]) // documented never to fail
	r.stores.Store(&map[string]*installation{})
	r.metrics = newMetrics(opts.Registerer, r)
	return r
}

func orDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Install makes s available under its name, at once and as a whole, in place of a store that had the name. Calls under
// way on the old provider end by themselves, at their deadline at the latest; then it is closed. Its cache is dropped.
// The Resolver owns s.Provider from now on; after Close it closes it immediately.
func (r *Resolver) Install(s Store) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		r.closeProvider(s.Name, s.Provider)
		return
	}
	old, in := r.installed(s.Name), newInstallation(r, s)
	if old != nil && old.leases != nil && in.leases != nil {
		in.leases.Inherit(old.leases)
	}
	r.replace(s.Name, in)
	if old != nil {
		r.retire(old)
	}
	r.mu.Unlock()
	r.announce(s.Name)
}

// Remove takes the store away. Its provider is closed as when Install replaces it. A name that is not installed is no
// error.
func (r *Resolver) Remove(name string) {
	r.mu.Lock()
	old := r.installed(name)
	r.replace(name, nil)
	r.metrics.forget(name)
	if old != nil {
		r.retire(old)
	}
	r.mu.Unlock()
	if old != nil {
		r.announce(name)
	}
}

// Close removes all stores and waits until their providers are closed, which takes as long as the calls under way, at
// most twice the longest RequestTimeout.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	stores := *r.stores.Swap(&map[string]*installation{})
	for name := range stores {
		r.metrics.forget(name)
	}
	for _, in := range stores {
		r.retire(in)
	}
	r.mu.Unlock()
	r.draining.Wait()
}

// Resolve returns the secret that req.Grant allows to read: from the cache while the answer is young enough, from the
// store otherwise, and from the cache again, marked as stale, while the store fails. The payload may have no fields:
// that is what a store without content for the secret answered.
//
// Errors are ErrNotGranted, or a *providers.Error with Store and Name set. ErrStoreClosed is its cause where the store
// is not installed, ctx.Err() where ctx ended first.
func (r *Resolver) Resolve(ctx context.Context, req Request) (Result, error) {
	if !req.Grant.Reads() {
		return Result{}, ErrNotGranted
	}
	begun := time.Now()
	in, rep, err := r.read(ctx, &req, false, begun)
	r.record(ctx, "secret read", in, &req, rep, err, begun)
	if err != nil {
		return Result{}, err
	}
	in.hand(&req, rep.answer)
	return in.result(rep, &req), nil
}

// Cached returns what Resolve would, if that is content that the cache has and that is young enough; if not, it reports
// false, and Resolve has to be called. It never waits, so that a reader of many secrets needs a goroutine only for
// those that are not at hand.
func (r *Resolver) Cached(ctx context.Context, req Request) (Result, bool) {
	in := r.installed(req.Grant.Ref().Store)
	if in == nil || !req.Grant.Reads() {
		return Result{}, false
	}
	begun := time.Now()
	rep, ok := in.cached(&req, begun)
	if !ok {
		return Result{}, false
	}
	r.record(ctx, "secret read", in, &req, rep, nil, begun)
	in.hand(&req, rep.answer)
	return in.result(rep, &req), true
}

// List returns the names of the secrets in the store. It is cached, refreshed and served stale as Resolve does, and has
// the same errors; Invalid says that the store has no listing. The names are for deciding on each of them, not for the
// caller: see scope.Policy.AuthorizeList.
func (r *Resolver) List(ctx context.Context, req Request) (Listing, error) {
	if !req.Grant.Lists() {
		return Listing{}, ErrNotGranted
	}
	begun := time.Now()
	in, rep, err := r.read(ctx, &req, true, begun)
	r.record(ctx, "secrets listed", in, &req, rep, err, begun)
	if err != nil {
		return Listing{}, err
	}
	res := in.result(rep, &req)
	return Listing{Names: rep.answer.names, FetchedAt: res.FetchedAt, ExpiresAt: res.ExpiresAt, Stale: res.Stale}, nil
}

// Invalidate marks what is cached of the secret as outdated, so that the next read asks the store. An empty name stands
// for every secret of the store. What is marked may still be served as stale.
func (r *Resolver) Invalidate(store, name string) {
	if in := r.installed(store); in != nil && in.outdate(name) {
		r.changed(store, name)
	}
}

// Epoch returns a number that changes whenever an answer that was given for the store, and that would still be fresh,
// no longer holds: other content arrived, or it was invalidated, evicted or the store replaced. Equal epochs, read
// before and after, mean that answers kept in between are as good as the cache's own until their ExpiresAt. Epochs
// only grow and are never used twice, not by another installation either. A store that is not installed has epoch zero.
func (r *Resolver) Epoch(store string) uint64 {
	if in := r.installed(store); in != nil {
		return in.epoch.Load()
	}
	return 0
}

// read finds the store and reads from it. A store that is replaced in this moment is looked up again.
func (r *Resolver) read(ctx context.Context, req *Request, list bool, now time.Time) (*installation, reply, error) {
	ref := req.Grant.Ref()
	for {
		in := r.installed(ref.Store)
		if in == nil {
			return nil, reply{}, &providers.Error{Store: ref.Store, Name: ref.Name, Kind: providers.Unavailable, Err: ErrStoreClosed}
		}
		rep, err := in.read(ctx, req, list, now)
		if err != errRetired {
			return in, rep, err
		}
	}
}

// installed returns the installation of a store, or nil.
func (r *Resolver) installed(name string) *installation { return (*r.stores.Load())[name] }

// replace puts in, or nothing, in the place of name. The caller holds r.mu.
func (r *Resolver) replace(name string, in *installation) {
	stores := maps.Clone(*r.stores.Load())
	if in == nil {
		delete(stores, name)
	} else {
		stores[name] = in
	}
	r.stores.Store(&stores)
}

// retire stops reads from in and closes its provider after the calls under way. No new read finds in any more. The
// caller holds r.mu, so that Close waits for every provider.
func (r *Resolver) retire(in *installation) {
	in.retire()
	r.draining.Go(func() {
		in.flying.Wait()
		r.closeProvider(in.name, in.provider)
	})
}

func (r *Resolver) closeProvider(store string, p providers.Provider) {
	if err := p.Close(); err != nil {
		r.log.Warn("closing a provider", "store", store, "err", err)
	}
}

func (r *Resolver) announce(store string) {
	select {
	case r.arrived <- struct{}{}:
	default: // Run has not seen the last one yet
	}
	r.changed(store, "")
}
