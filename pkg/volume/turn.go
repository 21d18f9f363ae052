package volume

import (
	"context"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
)

// volume is one volume ID that is published or being worked on.
type volume struct {
	// turn is full while an operation works on the volume. Waiting operations get it in the order in which they came.
	turn chan struct{}
	// tree and closeSockets belong to whoever has the turn.
	tree         tree
	closeSockets func() // nil: no sockets are open

	// The rest is guarded by Set.mu, and changed by whoever has the turn; tokens, appID and operations by anybody.
	published  bool
	recovered  bool // from an earlier process; the kubelet has not asked for it again, and brought no tokens
	missed     bool // while it is being published: something that it reads may have changed
	record     record
	spec       Spec
	data       string        // the generation that is in place; empty: none that is known to be whole
	size       int64         // of its files, in bytes of whole pages
	maxAge     time.Duration // of what the next rotation reads, as of the last; 0: as the stores say
	condition  Condition
	tokens     providers.TokenSource
	appID      string              // as the last publish had it
	leases     []resolve.Request   // the reads of it that were answered with what was issued
	parts      map[int]bool        // sources of which adoptLeases found not all fields: no other volume can be given them
	unadopted  bool                // an earlier process has read it, and nobody was told what was issued
	operations map[*operation]bool // those that have the turn or wait for it
}

// operation is one call that works on a volume.
type operation struct{ interrupt context.CancelCauseFunc }

// begin waits for the turn of a volume. The context it returns ends when the volume is to be unpublished. The caller
// calls end when it is done. The error is why ctx ended, and then there is nothing to end.
func (s *Set) begin(ctx context.Context, id string) (_ context.Context, v *volume, end func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	v, leave, err := s.join(ctx, id, &operation{interrupt: cancel}, false)
	if err != nil {
		cancel(nil)
		return nil, nil, nil, err
	}
	return ctx, v, func() { cancel(nil); leave() }, nil
}

// beginUnpublish is begin for Unpublish: it makes the operations that came before end, and nothing makes it end.
func (s *Set) beginUnpublish(ctx context.Context, id string) (v *volume, end func(), err error) {
	return s.join(ctx, id, &operation{interrupt: func(error) {}}, true)
}

// join waits for the turn. If interrupting, it ends the operations before it; those that come later wait for it.
func (s *Set) join(ctx context.Context, id string, op *operation, interrupting bool) (v *volume, end func(), err error) {
	s.mu.Lock()
	v, ok := s.volumes[id]
	if !ok {
		v = &volume{turn: make(chan struct{}, 1), operations: map[*operation]bool{}}
		s.volumes[id] = v
	}
	if interrupting {
		for earlier := range v.operations {
			earlier.interrupt(ErrUnpublished)
		}
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
