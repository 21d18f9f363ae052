package stores

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
)

// The pauses between attempts to open a store whose cause of failure may pass.
const (
	firstPause   = time.Second
	longestPause = time.Minute
)

// store is one wanted store. Run's goroutine owns it.
type store struct {
	wanted    component.Component
	inService *instance    // nil: closed
	problem   *problem     // why wanted is not in service; nil: it is, or was not tried yet
	failures  int          // in a row
	due       bool         // to be tried as soon as may be
	trying    bool         // an attempt is under way
	tried     bool         // at least once
	next      time.Time    // when to try without being told; zero: never
	opening   *atomic.Bool // a call of the driver's Open has not returned; outlives the attempt that made it
}

// instance is what was installed in the resolver.
type instance struct {
	driver     string // its type
	properties providers.Properties
	multiple   bool // a secret may have several fields
}

// Run keeps the stores equal to what was applied until ctx ends; then it returns nil. It must be called once.
//
// Attempts run beside it, so that a store that is slow to open keeps no other from changing.
func (s *Set) Run(ctx context.Context) error {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	outcomes := make(chan outcome)
	applied := false
	for {
		applied = s.takeNews() || applied
		for _, a := range s.attempts(time.Now()) {
			attempts.Go(func() {
				o := s.try(ctx, a)
				select {
				case outcomes <- o:
				case <-ctx.Done():
					o.discard()
				}
			})
		}
		if applied && s.allTried() {
			s.announceReady()
		}
		var retry <-chan time.Time
		if at := s.nextAttempt(); !at.IsZero() {
			retry = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case o := <-outcomes:
			s.finish(ctx, o)
		case <-s.wake:
		case <-retry:
		}
	}
}

func (s *Set) allTried() bool {
	for _, st := range s.stores {
		if !st.tried {
			return false
		}
	}
	return true
}

func (s *Set) announceReady() {
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
}

// takeNews marks as due what the news concern, and reports whether components were applied.
func (s *Set) takeNews() (applied bool) {
	s.news.Lock()
	components, applied, changed, retry := s.news.components, s.news.applied, s.news.changed, s.news.retry
	s.news.components, s.news.applied, s.news.changed, s.news.retry = nil, false, map[secretName]bool{}, false
	s.news.Unlock()

	if applied {
		s.want(components)
	}
	for _, st := range s.stores {
		st.due = st.due || retry && st.problem != nil
		for secret := range changed {
			st.due = st.due || refersTo(st.wanted, secret)
		}
	}
	return applied
}

// want makes components the wanted state.
func (s *Set) want(components []component.Component) {
	s.wanted = byKey(components)
	for key, c := range s.wanted {
		st, known := s.stores[key]
		if !known {
			st = &store{opening: &atomic.Bool{}}
			s.stores[key] = st
		}
		st.due = st.due || !known || st.problem != nil || !c.Equal(st.wanted) || refersToAny(c)
		st.wanted, st.failures = c, 0
	}
	for name := range s.stores {
		if _, ok := s.wanted[name]; !ok {
			s.remove(name)
		}
	}
}

func (s *Set) remove(name string) {
	s.opts.Resolver.Remove(name)
	if s.stores[name].inService != nil {
		s.opts.Logger.Info("store removed", "store", name)
	}
	delete(s.stores, name)
	s.metrics.forget(name)
	s.shown.Lock()
	delete(s.shown.status, name)
	s.shown.Unlock()
}

// attempts starts an attempt of each store that is due, unless another that it refers to comes first.
func (s *Set) attempts(now time.Time) []attempt {
	find := in(s.wanted)
	for _, st := range s.stores {
		st.due = st.due || (!st.next.IsZero() && !st.next.After(now))
	}
	var started []attempt
	for _, st := range s.stores {
		if !st.due || st.trying || s.waits(st, find) {
			continue
		}
		started = append(started, attempt{store: st, wanted: st.wanted, inService: st.inService, find: find})
	}
	for _, a := range started { // only now, because it decides who waits
		a.store.due, a.store.trying, a.store.next = false, true, time.Time{}
	}
	return started
}

// waits reports whether a store that st refers to is still to be tried. In a circle nobody waits: none of it will open.
func (s *Set) waits(st *store, find finder) bool {
	if circle(st.wanted, find) != nil {
		return false
	}
	return slices.ContainsFunc(chain(st.wanted, find)[1:], func(name string) bool {
		return s.stores[name].due || s.stores[name].trying
	})
}

// finish makes what an attempt brought the state of its store, unless something else is wanted by now, or nothing more.
func (s *Set) finish(ctx context.Context, o outcome) {
	st := o.store
	st.trying = false
	if s.stores[o.wanted.Key()] != st || !st.wanted.Equal(o.wanted) || ctx.Err() != nil {
		o.discard()
		return
	}
	st.tried = true
	logger := s.opts.Logger.With("store", st.wanted.Key())
	if o.problem == nil {
		if st.problem != nil && o.provider == nil {
			logger.Info("store is as wanted again")
		}
		st.problem, st.failures = nil, 0
		if o.refresh > 0 {
			st.next = time.Now().Add(jitter(max(o.refresh, firstPause)))
		}
	} else {
		s.logProblem(ctx, logger, st, o.problem)
		st.problem = o.problem
		if o.problem.passing {
			st.next = time.Now().Add(max(jitter(pause(st.failures)), o.problem.retryAfter))
		}
		st.failures++
	}
	if o.provider != nil {
		s.opts.Resolver.Install(resolve.Store{Name: st.wanted.Key(), Provider: o.provider, Settings: o.settings})
		st.inService = o.instance
		logger.Info("store opened", "type", st.wanted.Type)
		s.Changed(st.wanted.Key(), "") // what others refer to may differ in it
	}
	s.metrics.tried(st, o.provider != nil)
	s.show(st)
}

// logProblem logs a problem once, not at every attempt.
func (s *Set) logProblem(ctx context.Context, logger *slog.Logger, st *store, p *problem) {
	if st.problem != nil && st.problem.Error() == p.Error() {
		return
	}
	level := slog.LevelError
	if st.wanted.IgnoreErrors || st.inService != nil {
		level = slog.LevelWarn
	}
	logger.Log(ctx, level, "store not as wanted", "err", p, "open", st.inService != nil, "retried", p.passing)
}

// nextAttempt returns when the first store is to be tried without being told; zero: never.
func (s *Set) nextAttempt() time.Time {
	var first time.Time
	for _, st := range s.stores {
		if !st.trying && !st.next.IsZero() && (first.IsZero() || st.next.Before(first)) {
			first = st.next
		}
	}
	return first
}

// show publishes the state of st.
func (s *Set) show(st *store) {
	c, kind := st.wanted, st.wanted.Type
	if st.inService != nil {
		kind = st.inService.driver // perhaps not the wanted one
	}
	driver, _ := s.drivers.find(kind)
	status := Status{
		Key: c.Key(), Name: c.Name, Namespace: c.Namespace, Type: kind, Version: c.Version, Scopes: c.Scopes,
		MissingIsEmpty: driver.MissingIsEmpty, Selectors: driver.Selectors, Open: st.inService != nil,
	}
	if st.problem != nil {
		status.Reason = st.problem.Error()
	}
	if st.inService != nil && st.inService.multiple {
		status.Capabilities = []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}
	}
	s.shown.Lock()
	s.shown.status[status.Key] = status
	s.shown.Unlock()
}

// pause returns how long to wait after the given number of earlier failures in a row.
func pause(failures int) time.Duration {
	return min(firstPause<<min(failures, 10), longestPause)
}

// jitter spreads d by a tenth either way, so that many stores do not stay in step.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
