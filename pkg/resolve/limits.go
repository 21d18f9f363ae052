package resolve

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	maxCalls     = 64               // calls of one store under way, those that overran their deadline included
	tripAfter    = 5                // failures in a row that open the circuit
	firstPause   = 5 * time.Second  // how long it stays open; doubled each time the test call fails
	longestPause = time.Minute      //
	shortQuiet   = time.Second      // how long a store that throttled without saying for how long is left alone
	longestQuiet = 15 * time.Minute // a store that asks for more is asked again after this
)

// broken tells whether a failure speaks of the store's health. The other kinds are answers of a healthy store.
func broken(k providers.Kind) bool { return k == providers.Unavailable || k == providers.Unknown }

// passing tells whether a failure says nothing about the secret, so that the last good answer may stand in.
func passing(k providers.Kind) bool { return broken(k) || k == providers.Throttled }

// limits decide when a store may be called. Its parts are, in the order they are asked: a token bucket, a bound on the
// calls under way, and the gate.
type limits struct {
	bucket *rate.Limiter
	slots  chan struct{} // holds one element per call under way
	gate   gate
}

func newLimits(s Settings, log *slog.Logger) *limits {
	return &limits{
		bucket: rate.NewLimiter(rate.Limit(s.RequestsPerSecond), s.Burst),
		slots:  make(chan struct{}, maxCalls),
		gate:   gate{log: log},
	}
}

// refusal returns why a call can't be made now, or nil. It spares a reader the way through enter.
func (l *limits) refusal(now time.Time) error {
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	return l.gate.refusal(now)
}

// enter waits until a call may be made, at most until ctx ends. After it, the caller owes one leave and, when the call
// has returned, one release.
func (l *limits) enter(ctx context.Context) (probe bool, _ error) {
	if err := l.bucket.Wait(ctx); err != nil {
		return false, providers.Errorf(providers.Throttled, "more than the %v requests per second set for the store", l.bucket.Limit())
	}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return false, providers.Errorf(providers.Unavailable, "%d calls of the store are under way: %w", maxCalls, ctx.Err())
	}
	probe, err := l.gate.enter(time.Now())
	if err != nil {
		l.release()
	}
	return probe, err
}

func (l *limits) leave(probe bool, err *providers.Error) { l.gate.leave(time.Now(), probe, err) }

func (l *limits) release() { <-l.slots }

// gate keeps calls away from a store that asked to be left alone, and from one that is down: a circuit breaker. The
// circuit opens after tripAfter failures in a row. When its pause is over, one call tests the store: the circuit closes
// if the store answers, and stays open for twice as long if not.
type gate struct {
	log *slog.Logger

	mu         sync.Mutex
	quietUntil time.Time     // the store wants no call before
	failures   int           // in a row
	openUntil  time.Time     // zero while the circuit is closed
	pause      time.Duration // of the open circuit
	probing    bool          // the test call is under way
}

// The values of the breaker_state metric.
const (
	circuitClosed = iota
	circuitHalfOpen
	circuitOpen
)

func (g *gate) state(now time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.openUntil.IsZero():
		return circuitClosed
	case now.Before(g.openUntil):
		return circuitOpen
	default:
		return circuitHalfOpen
	}
}

// refusal returns why the gate is shut, or nil. The caller holds g.mu.
func (g *gate) refusal(now time.Time) error {
	if wait := g.quietUntil.Sub(now); wait > 0 {
		err := providers.Errorf(providers.Throttled, "the store asked to be left alone for another %v", wait.Round(time.Millisecond))
		err.RetryAfter = wait
		return err
	}
	if wait := g.openUntil.Sub(now); wait > 0 {
		err := providers.Errorf(providers.Unavailable, "circuit open after %d failures, next try in %v", g.failures, wait.Round(time.Millisecond))
		err.RetryAfter = wait
		return err
	}
	if g.probing {
		return providers.Errorf(providers.Unavailable, "circuit open after %d failures, a call is testing the store", g.failures)
	}
	return nil
}

// enter lets a call through or returns why not. A probe is the call that tests a store whose circuit is open.
func (g *gate) enter(now time.Time) (probe bool, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.refusal(now); err != nil {
		return false, err
	}
	g.probing = !g.openUntil.IsZero()
	return g.probing, nil
}

// leave takes note of a call's outcome.
func (g *gate) leave(now time.Time, probe bool, err *providers.Error) {
	g.mu.Lock()
	quiet := g.hush(now, err)
	opened, closed := g.count(now, probe, err)
	failures, wait := g.failures, g.pause
	g.mu.Unlock()

	if quiet > 0 {
		g.log.Warn("store asked to be left alone", "retry_after", quiet, "err", err)
	}
	if opened {
		g.log.Warn("circuit opened", "failures", failures, "pause", wait, "err", err)
	}
	if closed {
		g.log.Info("circuit closed")
	}
}

// hush leaves the store alone if it asked for that, and returns for how long. The caller holds g.mu.
func (g *gate) hush(now time.Time, err *providers.Error) time.Duration {
	if err == nil || err.Kind != providers.Throttled && err.RetryAfter <= 0 {
		return 0
	}
	quiet := min(max(err.RetryAfter, shortQuiet), longestQuiet)
	if until := now.Add(quiet); until.After(g.quietUntil) {
		g.quietUntil = until
	}
	return quiet
}

// count moves the circuit. A call that began before it opened does not count any more. The caller holds g.mu.
func (g *gate) count(now time.Time, probe bool, err *providers.Error) (opened, closed bool) {
	if !g.openUntil.IsZero() && !probe {
		return false, false
	}
	g.probing = false
	if err == nil || !broken(err.Kind) {
		g.failures, g.pause, g.openUntil = 0, 0, time.Time{}
		return false, probe
	}
	g.failures++
	if g.failures < tripAfter {
		return false, false
	}
	g.pause = min(max(2*g.pause, firstPause), longestPause)
	g.openUntil = now.Add(g.pause)
	return true, false
}
