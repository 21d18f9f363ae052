package volume

import (
	"context"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// volume is one volume ID that is published or being worked on.
type volume struct {
	// turn is full while an operation works on the volume. Waiting operations get it in the order in which they came.
	turn chan struct{}
	tree tree // belongs to whoever has the turn

	// The rest is guarded by Set.mu, and changed by whoever has the turn; tokens and operations by anybody.
	published  bool
	record     record
	spec       Spec
	data       string        // the generation that is in place
	size       int64         // of its files, in bytes of whole pages
	interval   time.Duration // between rotations, as of the last read; 0: unknown
	condition  Condition
	tokens     providers.TokenSource
	operations map[*operation]bool // those that have the turn or wait for it
}

// operation is one call that works on a volume.
type operation struct{ interrupt context.CancelCauseFunc }

// begin waits for the turn of a volume. The context it returns ends when the volume is to be unpublished. The caller
// calls end when it is done. The error is why ctx ended, and then there is nothing to end.
func (s *Set) begin(ctx context.Context, id string) (_ context.Context, v *volume, end func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	v, leave, err := s.join(ctx, id, &operation{interrupt: cancel})
	if err != nil {
		cancel(nil)
		return nil, nil, nil, err
	}
	return ctx, v, func() { cancel(nil); leave() }, nil
}

// beginUnpublish is begin for Unpublish: it makes the operations that came before end, and nothing makes it end.
func (s *Set) beginUnpublish(ctx context.Context, id string) (v *volume, end func(), err error) {
	s.mu.Lock()
	if v, ok := s.volumes[id]; ok {
		for op := range v.operations {
			op.interrupt(ErrUnpublished)
		}
	}
	s.mu.Unlock()
	return s.join(ctx, id, &operation{interrupt: func(error) {}})
}

func (s *Set) join(ctx context.Context, id string, op *operation) (v *volume, end func(), err error) {
	s.mu.Lock()
	v, ok := s.volumes[id]
	if !ok {
		v = &volume{turn: make(chan struct{}, 1), operations: map[*operation]bool{}}
		s.volumes[id] = v
	}
	v.operations[op] = true
	s.mu.Unlock()

	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(v.operations, op)
		if len(v.operations) == 0 && !v.published {
			delete(s.volumes, id)
		}
	}
	select {
	case v.turn <- struct{}{}:
		return v, func() { <-v.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, nil, context.Cause(ctx)
	}
}
