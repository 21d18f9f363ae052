package rotation

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configure a Scheduler.
type Options struct {
	// Rotate rotates one volume and returns when it is due again; a zero time means when it is nudged. It is called by
	// several workers, for one volume by one at a time. ctx ends when the volume is removed, when Run's context ends and
	// after Timeout. Required.
	Rotate     func(ctx context.Context, id string) (next time.Time, err error)
	Workers    int                   // rotations at one time; default 16
	Timeout    time.Duration         // of one rotation; default 1 minute
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

const (
	// Workers mostly wait for stores. There are more than a node has cores, so that the volumes of a store that hangs
	// do not hold up those of the others.
	defaultWorkers = 16
	defaultTimeout = time.Minute

	// minPause keeps a due time that has already passed from making a worker spin.
	minPause = 500 * time.Millisecond
	// The pause after the first failure in a row; it doubles with each further one up to maxBackoff.
	minBackoff = time.Second
	maxBackoff = 2 * time.Minute

	// idle is how long to wait with nothing queued: any time will do, since queueing wakes.
	idle = time.Hour
)

// Scheduler rotates volumes when they are due. It is safe for concurrent use.
type Scheduler struct {
	opts    Options
	metrics metrics
	wake    chan struct{} // level trigger, size one: the queue has a new head

	mu      sync.Mutex
	entries map[string]*entry // volume ID → entry
	queue   queue             // the entries that no worker has and that have a due time
	failing int               // entries whose last rotation failed
}

// New returns a Scheduler that knows no volume. It rotates while Run runs.
func New(opts Options) (*Scheduler, error) {
	if opts.Rotate == nil {
		return nil, errors.New("rotation needs a Rotate func")
	}
	if opts.Workers <= 0 {
		opts.Workers = defaultWorkers
	}
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Scheduler{opts: opts, wake: make(chan struct{}, 1), entries: map[string]*entry{}}
	s.instrument(opts.Registerer)
	return s, nil
}

// Add schedules a volume that has just been published or found: it is rotated by due, spread as every due time is. A
// zero due means when it is nudged. For a volume that is known already, due replaces the time it had, and the failures
// it had are forgotten; but one that is due already, or nudged, stays so. If it is being rotated, it is rotated once
// more, by due.
func (s *Scheduler) Add(id string, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		e = &entry{id: id, index: unqueued}
		s.entries[id] = e
	}
	now := time.Now()
	if !due.IsZero() {
		due = spread(now, due)
	}
	if e.cancel != nil {
		e.removed, e.again = false, earlier(e.again, due)
		return
	}
	s.succeeded(e)
	if e.index != unqueued && !e.due.After(now) {
		return
	}
	s.queue.drop(e)
	if !due.IsZero() {
		s.enqueue(e, due)
	}
}

// Remove forgets a volume. A rotation of it that is running is cancelled; Remove does not wait for that.
func (s *Scheduler) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return
	}
	s.succeeded(e)
	if e.cancel != nil {
		// The entry stays until the worker is done, so that adding the volume again can't start a second rotation beside
		// the one that is ending.
		e.removed, e.again = true, time.Time{}
		e.cancel()
		return
	}
	s.queue.drop(e)
	delete(s.entries, id)
}

// Nudge makes volumes due now: something they show may have changed. A volume that is being rotated is rotated once more
// afterwards, because the running rotation may have read before the change. Unknown volumes are ignored.
func (s *Scheduler) Nudge(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, id := range ids {
		switch e := s.entries[id]; {
		case e == nil || e.removed:
		case e.cancel != nil:
			e.again = earlier(e.again, now)
		case e.index == unqueued || e.due.After(now):
			s.enqueue(e, now)
		}
	}
}

// Run rotates volumes until ctx ends. It returns nil once the rotations it has started are done. It is called once.
func (s *Scheduler) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	free := make(chan struct{}, s.opts.Workers)
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		// The worker comes first: what it takes is then the most urgent volume at the moment it can start.
		e, rotating := s.take(ctx)
		if e == nil {
			return nil
		}
		workers.Go(func() {
			s.rotate(rotating, e)
			<-free
		})
	}
}

// take waits until a volume is due and gives it to the caller, with the context for its rotation. It returns nil when
// ctx ends.
func (s *Scheduler) take(ctx context.Context) (*entry, context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		e, rotating, wait := s.pop(ctx)
		if e != nil {
			return e, rotating
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	return nil, nil
}

// pop takes the first volume out of the queue if it is due; if not, it tells how long to wait.
func (s *Scheduler) pop(ctx context.Context) (*entry, context.Context, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, nil, idle
	}
	if wait := time.Until(s.queue[0].due); wait > 0 {
		return nil, nil, wait
	}
	e := heap.Pop(&s.queue).(*entry)
	if e.since.IsZero() {
		e.since = e.due
	}
	rotating, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	e.cancel = cancel
	return e, rotating, 0
}

// rotate runs one rotation and schedules the next.
func (s *Scheduler) rotate(ctx context.Context, e *entry) {
	next, err := s.catch(ctx, e.id)
	result, due := s.finish(ctx, e, next, err)
	s.metrics.runs.WithLabelValues(result).Inc()
	if result == resultFailed {
		s.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "rotation failed, retrying",
			slog.String("volume_id", e.id), slog.Any("err", err), slog.Duration("retry_in", max(0, time.Until(due))))
	}
}

// catch calls Rotate and makes a panic a failure: one volume must not end the agent that serves all others. What it
// panicked with may hold a secret and is not shown.
func (s *Scheduler) catch(ctx context.Context, id string) (next time.Time, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.opts.Logger.ErrorContext(ctx, "rotation panicked", "volume_id", id, "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = errors.New("rotation panicked")
		}
	}()
	return s.opts.Rotate(ctx, id)
}

// finish takes e back from a worker whose rotation ended with next and err, and schedules it again. It returns how the
// rotation counts, and when the next is due.
func (s *Scheduler) finish(ctx context.Context, e *entry, next time.Time, err error) (result string, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cancelled := errors.Is(ctx.Err(), context.Canceled)
	e.cancel()
	e.cancel = nil
	if e.removed {
		delete(s.entries, e.id)
		return resultCancelled, time.Time{}
	}
	now := time.Now()
	switch {
	case cancelled:
		// Run ends, or the volume was removed and added again meanwhile: then e.again says when it is due.
		result = resultCancelled
	case err != nil:
		s.failed(e)
		result, due = resultFailed, now.Add(backoff(e.failures))
	default:
		s.metrics.lag.Observe(now.Sub(e.since).Seconds())
		s.succeeded(e)
		result = resultOK
		if !next.IsZero() {
			due = later(spread(now, next), now.Add(minPause))
		}
	}
	due, e.again = earlier(e.again, due), time.Time{}
	if !due.IsZero() {
		s.enqueue(e, due)
	}
	return result, due
}

// enqueue sets e's due time and, if e is now the first, wakes the one who waits for the first.
func (s *Scheduler) enqueue(e *entry, due time.Time) {
	s.queue.set(e, due)
	if e.index == 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *Scheduler) failed(e *entry) {
	if e.failures == 0 {
		s.failing++
	}
	e.failures++
}

func (s *Scheduler) succeeded(e *entry) {
	if e.failures > 0 {
		s.failing--
	}
	e.failures, e.since = 0, time.Time{}
}

// backoff returns how long to wait after a number of failures in a row: the second half of the pause is random.
func backoff(failures int) time.Duration {
	pause := minBackoff
	for i := 1; i < failures && pause < maxBackoff; i++ {
		pause *= 2
	}
	pause = min(pause, maxBackoff)
	return pause/2 + rand.N(pause/2)
}

// spread moves due up to a tenth of the time until then to the front.
func spread(now, due time.Time) time.Time {
	if tenth := due.Sub(now) / 10; tenth > 0 {
		return due.Add(-rand.N(tenth))
	}
	return due
}

// earlier returns the earlier of two times, of which a zero one does not count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
