package stores

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
)

// The pauses between attempts to open a store whose cause of failure may pass.
const (
	firstPause   = time.Second
	longestPause = time.Minute
)

// store is one wanted store. Run's goroutine owns it, and during a round the one goroutine that tries it.
type store struct {
	wanted    component.Component
	inService *instance // nil: closed
	problem   *problem  // why wanted is not in service; nil: it is
	failures  int       // in a row
	due       bool      // to be tried in this round
	next      time.Time // when to try without being told; zero: never
}

// instance is what was installed in the resolver.
type instance struct {
	driver     string // its type
	properties providers.Properties
	multiple   bool // a secret may have several fields
}

// Run keeps the stores equal to what was applied until ctx ends; then it returns nil. It must be called once.
func (s *Set) Run(ctx context.Context) error {
	applied := false
	for {
		applied = s.takeNews() || applied
		s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if applied {
			s.announceReady()
		}
		var retry <-chan time.Time
		if at := s.nextAttempt(); !at.IsZero() {
			retry = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-retry:
		}
	}
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
	components, applied, changed := s.news.components, s.news.applied, s.news.changed
	s.news.components, s.news.applied, s.news.changed = nil, false, map[secretName]bool{}
	s.news.Unlock()

	if applied {
		s.want(components)
	}
	for _, st := range s.stores {
		for secret := range changed {
			st.due = st.due || refersTo(st.wanted, secret)
		}
	}
	return applied
}

// want makes components the wanted state.
func (s *Set) want(components []component.Component) {
	wanted := make(map[string]bool, len(components))
	for _, c := range components {
		wanted[c.Name] = true
		st, known := s.stores[c.Name]
		if !known {
			st = &store{}
			s.stores[c.Name] = st
		}
		st.due = st.due || !known || st.problem != nil || !c.Equal(st.wanted) || refersToAny(c)
		st.wanted, st.failures = c, 0
	}
	for name := range s.stores {
		if !wanted[name] {
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

// round tries all stores that are due, those that others refer to first, and those that do not depend on each other at
// the same time.
func (s *Set) round(ctx context.Context) {
	now := time.Now()
	for _, level := range s.levels() {
		var tries sync.WaitGroup
		for _, st := range level {
			if st.due || (!st.next.IsZero() && !st.next.After(now)) {
				tries.Go(func() { s.try(ctx, st) })
			}
		}
		tries.Wait()
	}
}

// levels sorts the stores by how many others must be open before them.
func (s *Set) levels() [][]*store {
	var levels [][]*store
	for _, st := range s.stores {
		depth := len(chain(st.wanted, s.find)) - 1
		for len(levels) <= depth {
			levels = append(levels, nil)
		}
		levels[depth] = append(levels[depth], st)
	}
	return levels
}

// find returns the wanted component of a name.
func (s *Set) find(name string) (component.Component, bool) {
	st, ok := s.stores[name]
	if !ok {
		return component.Component{}, false
	}
	return st.wanted, true
}

// try brings st into the wanted state or notes why not.
func (s *Set) try(ctx context.Context, st *store) {
	opened, refresh, p := s.open(ctx, st)
	if ctx.Err() != nil {
		return
	}
	st.due, st.next = false, time.Time{}
	logger := s.opts.Logger.With("store", st.wanted.Name)
	if p == nil {
		if st.problem != nil && !opened {
			logger.Info("store is as wanted again")
		}
		st.problem, st.failures = nil, 0
		if refresh > 0 {
			st.next = time.Now().Add(jitter(max(refresh, firstPause)))
		}
	} else {
		s.logProblem(ctx, logger, st, p)
		st.problem = p
		if p.passing {
			st.next = time.Now().Add(max(jitter(pause(st.failures)), p.retryAfter))
		}
		st.failures++
	}
	if opened {
		logger.Info("store opened", "type", st.wanted.Type)
		s.Changed(st.wanted.Name, "") // what others refer to may differ in it
	}
	s.metrics.tried(st, opened)
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
		if !st.next.IsZero() && (first.IsZero() || st.next.Before(first)) {
			first = st.next
		}
	}
	return first
}

// show publishes the state of st.
func (s *Set) show(st *store) {
	c, driver := st.wanted, s.drivers[st.wanted.Type]
	status := Status{
		Name: c.Name, Namespace: c.Namespace, Type: c.Type, Version: c.Version, Scopes: c.Scopes,
		MissingIsEmpty: driver.MissingIsEmpty, Selectors: driver.Selectors, Open: st.inService != nil,
	}
	if st.problem != nil {
		status.Reason = st.problem.Error()
	}
	if st.inService != nil && st.inService.multiple {
		status.Capabilities = []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}
	}
	s.shown.Lock()
	s.shown.status[c.Name] = status
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
