package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywell/keywell/pkg/lease"
	"github.com/keywell/keywell/pkg/providers"
)

// errRetired says that the installation was replaced or removed after it was looked up. It does not leave the package.
var errRetired = errors.New("store was replaced")

// installation is an installed Store with everything that the resolver keeps for it. All of it goes when the store is
// replaced.
type installation struct {
	Settings
	name     string
	provider providers.Provider
	log      *slog.Logger
	metrics  *counters
	digests  *digester
	changed  func(store, name string)
	limits   *limits
	epochs   *atomic.Uint64 // the resolver's; the source of epoch
	epoch    atomic.Uint64
	gone     chan struct{}  // closed on retirement
	flying   sync.WaitGroup // flights under way

	leases *lease.Keeper[key] // nil: the provider issues nothing

	mu      sync.Mutex
	cache   *cache
	flights map[key]*flight // key → its youngest flight
	retired bool
}

func newInstallation(r *Resolver, s Store) *installation {
	settings := s.Settings.withDefaults()
	log := r.log.With("store", s.Name)
	in := &installation{
		Settings: settings,
		name:     s.Name,
		provider: s.Provider,
		log:      log,
		metrics:  r.metrics.of(s.Name),
		digests:  &r.digests,
		changed:  r.changed,
		limits:   newLimits(settings, log),
		epochs:   &r.epochs,
		gone:     make(chan struct{}),
		cache:    newCache(settings.MaxEntries, settings.MaxBytes),
		flights:  map[key]*flight{},
	}
	if store, ok := s.Provider.(lease.Store); ok {
		in.leases = lease.New[key](store)
	}
	in.advance()
	return in
}

func (s Settings) withDefaults() Settings {
	s.CacheTTL = cmp.Or(s.CacheTTL, time.Minute)
	if s.RefreshInterval == 0 {
		s.RefreshInterval = s.CacheTTL
		if s.CacheTTL < time.Second { // the cache is in effect off, which is no wish to rotate without a pause
			s.RefreshInterval = time.Minute
		}
	}
	s.NegativeTTL = cmp.Or(s.NegativeTTL, 5*time.Second)
	s.StaleFor = cmp.Or(s.StaleFor, time.Hour)
	s.RequestTimeout = cmp.Or(s.RequestTimeout, 10*time.Second)
	s.RequestsPerSecond = cmp.Or(s.RequestsPerSecond, 100)
	s.Burst = cmp.Or(s.Burst, 200)
	s.MaxEntries = cmp.Or(s.MaxEntries, 10_000)
	s.MaxBytes = cmp.Or(s.MaxBytes, 64<<20)
	return s
}

// source says where an answer came from. It is a metric label.
type source uint8

const (
	fromStore    source = iota // the store was asked, for this reader or for one that it joined
	fromCache                  // fresh content
	fromNegative               // a refusal that is still remembered
	fromStale                  // the last good content of a store that fails
	gaveUp                     // the reader's context ended
)

// reply is what one read got. The answer is nil if it got none.
type reply struct {
	answer *answer
	from   source
}

func (rep reply) cached() bool { return rep.from != fromStore && rep.from != gaveUp }

// read answers from the cache, joins a flight or starts one.
func (in *installation) read(ctx context.Context, req *Request, list bool, now time.Time) (reply, error) {
	k, err := in.keyOf(req, list)
	if err != nil {
		return reply{}, err
	}
	in.mu.Lock()
	if in.retired {
		in.mu.Unlock()
		return reply{}, errRetired
	}
	e := in.cache.get(k)
	if e != nil && !req.Fresh && in.fresh(e, req, now) {
		a := e.answer
		in.mu.Unlock()
		return cachedReply(a)
	}
	f := in.flights[k]
	joined := f != nil && f.joinable(req.Fresh)
	if !joined {
		if refusal := in.limits.refusal(now); refusal != nil {
			in.mu.Unlock()
			return in.fallback(k, req, in.fail(k.Name, refusal), now)
		}
		f = in.launch(ctx, k, req, f)
	}
	in.mu.Unlock()
	rep, err := in.await(ctx, f, req)
	if joined && req.Tokens != nil && aboutReader(err) {
		return in.read(ctx, req, list, time.Now()) // it was another reader's flight
	}
	return rep, err
}

// cached answers from the cache with content, or reports false.
func (in *installation) cached(req *Request, now time.Time) (reply, bool) {
	k, err := in.keyOf(req, false)
	if err != nil || req.Fresh {
		return reply{}, false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	e := in.cache.get(k)
	if e == nil || e.answer.refusal != nil || !in.fresh(e, req, now) {
		return reply{}, false
	}
	return reply{answer: e.answer, from: fromCache}, true
}

// keyOf returns the cache key of a request, or Invalid where the request can't be made to this store.
func (in *installation) keyOf(req *Request, list bool) (key, error) {
	k := key{Ref: req.Grant.Ref(), list: list, metadata: canonical(req.Metadata), own: req.Own}
	if in.PerIdentity {
		id := req.Grant.Identity()
		if id.Namespace == "" || id.ServiceAccount == "" { // a reference, or a caller known by app id only
			return k, in.fail(k.Name, providers.Errorf(providers.Invalid, "the store authorises pods, and this read is on behalf of none"))
		}
		k.callerNamespace, k.callerAccount = id.Namespace, id.ServiceAccount
		if in.PerPod {
			k.callerPod = id.PodUID
		}
	}
	if req.Grant.AsPod() && !in.PerIdentity { // the manifest has changed, and the store is not open as it says yet
		return k, in.fail(k.Name, providers.Errorf(providers.Unavailable, "the store is to be read as the pod, and is still open as the agent"))
	}
	if list {
		if _, ok := in.provider.(providers.Lister); !ok {
			return k, in.fail("", providers.Errorf(providers.Invalid, "the store cannot list its secrets"))
		}
	} else if k.Name == "" { // a Query without a name is a listing
		return k, in.fail("", providers.Errorf(providers.Invalid, "no secret name"))
	}
	return k, nil
}

// await waits for the flight's end or for the reader's.
func (in *installation) await(ctx context.Context, f *flight, req *Request) (reply, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return reply{from: gaveUp}, in.fail(f.key.Name, fmt.Errorf("wait for the store: %w", ctx.Err()))
	}
	switch {
	case f.err != nil:
		return in.fallback(f.key, req, f.err, time.Now())
	case f.answer.refusal != nil:
		return reply{answer: f.answer, from: fromStore}, f.answer.refusal
	default:
		return reply{answer: f.answer, from: fromStore}, nil
	}
}

// fallback returns the last good answer in place of err, where it may.
func (in *installation) fallback(k key, req *Request, err *providers.Error, now time.Time) (reply, error) {
	if req.Fresh || !passing(err.Kind) {
		return reply{}, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if e := in.cache.get(k); e != nil && in.servable(e.answer, now) {
		return reply{answer: e.answer, from: fromStale}, nil
	}
	return reply{}, err
}

func cachedReply(a *answer) (reply, error) {
	if a.refusal != nil {
		return reply{answer: a, from: fromNegative}, a.refusal
	}
	return reply{answer: a, from: fromCache}, nil
}

// fresh tells whether an entry answers req without asking the store.
func (in *installation) fresh(e *entry, req *Request, now time.Time) bool {
	return !e.outdated && now.Before(in.expiry(e.answer, req))
}

// expiry returns until when a is fresh for req.
func (in *installation) expiry(a *answer, req *Request) time.Time {
	maxAge := cmp.Or(req.MaxAge, in.CacheTTL)
	if a.refusal != nil {
		maxAge = min(maxAge, in.NegativeTTL)
	}
	if a.payload.Issued { // so that the next is got while this one is valid
		maxAge = min(maxAge, a.payload.NotAfter.Sub(a.fetched)*2/3)
	}
	return a.until(maxAge)
}

// servable tells whether a is content that may stand in for a failing store.
func (in *installation) servable(a *answer, now time.Time) bool {
	return a.refusal == nil && in.StaleFor > 0 && now.Before(a.until(in.CacheTTL+in.StaleFor))
}

// result shows a reply to a reader.
func (in *installation) result(rep reply, req *Request) Result {
	a := rep.answer
	res := Result{
		Payload:         a.payload,
		FetchedAt:       a.fetched,
		ExpiresAt:       in.expiry(a, req),
		Stale:           rep.from == fromStale,
		RefreshInterval: in.RefreshInterval,
		Digest:          a.digest,
	}
	if res.Stale { // asked for again at once, even where it was outdated before its time
		res.ExpiresAt = res.FetchedAt
	}
	return res
}

// outdate marks everything known of a secret, or of all for an empty name, as not fresh. It reports false if the
// installation has been retired.
func (in *installation) outdate(name string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.retired {
		return false
	}
	in.cache.outdate(name)
	for k, f := range in.flights {
		if f.begun && k.concerns(name) {
			f.outdated = true
		}
	}
	in.advance()
	return true
}

// retire makes further reads fail with errRetired and drops the cache; what flights still bring is not kept.
func (in *installation) retire() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.retired = true
	in.cache = newCache(0, 0)
	close(in.gone)
}

// advance gives the installation a new epoch.
func (in *installation) advance() { in.epoch.Store(in.epochs.Add(1)) }

// fail returns err as a *providers.Error that says which secret of which store. An err that is one already is copied,
// because it belongs to the driver.
func (in *installation) fail(name string, err error) *providers.Error {
	full := &providers.Error{Store: in.name, Name: name, Kind: providers.KindOf(err), RetryAfter: providers.RetryAfter(err), Err: err}
	if e, ok := err.(*providers.Error); ok { //nolint:errorlint // only the outermost is replaced
		full.Err = e.Err
		if full.Err == nil {
			full.Err = errors.New(e.Kind.String())
		}
	}
	return full
}
