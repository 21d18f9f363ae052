package gather_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/providers/gather"
)

// store remembers its calls, each of which takes a second. It has no secret "missing".
type store struct {
	mu    sync.Mutex
	calls [][]string
	ended int // by their contexts
	err   error
}

func (s *store) call(ctx context.Context, names []string) (map[string]gather.Result[string], error) {
	s.mu.Lock()
	s.calls = append(s.calls, names)
	s.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		s.mu.Lock()
		s.ended++
		s.mu.Unlock()
		return nil, ctx.Err()
	}
	results := map[string]gather.Result[string]{}
	for _, name := range names {
		results[name] = gather.Result[string]{Value: "of " + name}
	}
	if slices.Contains(names, "missing") {
		results["missing"] = gather.Result[string]{Err: errMissing}
	}
	return results, s.err
}

var errMissing = errors.New("missing")

func TestOneCallForReadsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		g := gather.New(5, s.call)
		var all sync.WaitGroup
		for i := range 20 { // ten names, each wanted twice
			name := fmt.Sprint(i % 10)
			all.Go(func() {
				if got, err := g.Get(t.Context(), name); got != "of "+name || err != nil {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			})
		}
		all.Wait()
		if len(s.calls) < 2 || len(s.calls) > 4 || slices.ContainsFunc(s.calls, func(names []string) bool { return len(names) > 5 }) {
			t.Errorf("calls %v", s.calls)
		}
		if _, err := g.Get(t.Context(), "later"); err != nil {
			t.Error(err)
		}
	})
}

func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		g := gather.New(5, s.call)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := g.Get(t.Context(), "missing"); !errors.Is(err, errMissing) {
				t.Errorf("one name's error: %v", err)
			}
		})
		all.Go(func() {
			if got, err := g.Get(t.Context(), "db"); got != "of db" || err != nil {
				t.Errorf("beside a failure: %q, %v", got, err)
			}
		})
		all.Wait()
		s.err = errors.New("down")
		if _, err := g.Get(t.Context(), "db"); !errors.Is(err, s.err) {
			t.Errorf("the call's error: %v", err)
		}
	})
}

// TestReaderGivesUp: the call goes on for the other reader, and ends with the last.
func TestReaderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		g := gather.New(5, s.call)
		hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if got, err := g.Get(t.Context(), "db"); got != "of db" || err != nil {
				t.Errorf("the patient reader: %q, %v", got, err)
			}
		})
		synctest.Wait()
		if _, err := g.Get(hasty, "other"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the hasty reader: %v", err)
		}
		all.Wait()
		alone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		if _, err := g.Get(alone, "db"); !errors.Is(err, context.Canceled) {
			t.Errorf("alone: %v", err)
		}
		synctest.Wait()
		if len(s.calls) != 2 || s.ended != 1 {
			t.Errorf("calls %v, %d ended; want the second to end with its reader", s.calls, s.ended)
		}
	})
}
