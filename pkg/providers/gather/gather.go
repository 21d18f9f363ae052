// Package gather makes one call of the reads that come within a moment, for stores that answer several names at once.
//
// A read waits a little for others, which costs little beside the call; it returns when its own context ends, and the call
// goes on for the others. The drivers use it; what a batch may hold, and what becomes of one that fails, is theirs to say.
package gather

import (
	"context"
	"slices"
	"sync"
	"time"
)

// linger is how long the first of several reads waits for others to make one call with. It is little beside the call.
const linger = 3 * time.Millisecond

// Func reads names, which are distinct. An error stands for all of them.
type Func[V any] func(ctx context.Context, names []string) (map[string]Result[V], error)

// Gatherer gathers reads. Make one with New. It is safe for concurrent use.
type Gatherer[V any] struct {
	limit int
	call  Func[V]

	mu   sync.Mutex
	open *gathering[V] // takes more names; nil: there is none
}

// Result is what one name of a call got.
type Result[V any] struct {
	Value V
	Err   error
}

// New returns a Gatherer that makes calls of at most limit names.
func New[V any](limit int, call Func[V]) *Gatherer[V] { return &Gatherer[V]{limit: limit, call: call} }

// gathering is one call to be. Before done is closed, it is guarded by the gatherer's mutex.
type gathering[V any] struct {
	names   []string
	waiting int           // readers
	full    chan struct{} // closed when no more names fit
	done    chan struct{} // closed when results and err are set
	cancel  context.CancelFunc
	results map[string]Result[V]
	err     error
}

// Get reads one name. The call goes on for the others when one reader gives up, and ends with the last.
func (g *Gatherer[V]) Get(ctx context.Context, name string) (V, error) {
	b := g.join(ctx, name)
	select {
	case <-b.done:
	case <-ctx.Done():
		g.mu.Lock()
		if b.waiting--; b.waiting == 0 {
			b.cancel()
			if g.open == b {
				g.open = nil
			}
		}
		g.mu.Unlock()
		var none V
		return none, ctx.Err()
	}
	if b.err != nil {
		var none V
		return none, b.err
	}
	r := b.results[name]
	return r.Value, r.Err
}

// join adds name to the call that is being gathered, or begins one.
func (g *Gatherer[V]) join(ctx context.Context, name string) *gathering[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.open
	if b == nil {
		b = &gathering[V]{full: make(chan struct{}), done: make(chan struct{})}
		detached := context.WithoutCancel(ctx)
		if deadline, ok := ctx.Deadline(); ok { // all readers have about the same, and each ends by its own
			detached, b.cancel = context.WithDeadline(detached, deadline.Add(linger))
		} else {
			detached, b.cancel = context.WithCancel(detached)
		}
		g.open = b
		go g.run(detached, b)
	}
	b.waiting++
	if !slices.Contains(b.names, name) {
		b.names = append(b.names, name)
	}
	if len(b.names) == g.limit {
		g.open = nil
		close(b.full)
	}
	return b
}

// run waits for more names and makes the call.
func (g *Gatherer[V]) run(ctx context.Context, b *gathering[V]) {
	defer b.cancel()
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.full:
	case <-ctx.Done():
	}
	g.mu.Lock()
	if g.open == b {
		g.open = nil
	}
	names := b.names
	g.mu.Unlock()
	b.results, b.err = g.call(ctx, names)
	close(b.done)
}

// Each reads names one by one, at the same time, for callers that may not read them in one call.
func Each[V any](ctx context.Context, names []string, read func(context.Context, string) (V, error)) map[string]Result[V] {
	results := make([]Result[V], len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { results[i].Value, results[i].Err = read(ctx, name) })
	}
	all.Wait()
	byName := make(map[string]Result[V], len(names))
	for i, name := range names {
		byName[name] = results[i]
	}
	return byName
}
