package rotation_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/rotation"
)

func TestRemove(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, r := scheduler(t, rotation.Options{}, never)
			s.Add("a", time.Now().Add(interval))
			s.Remove("a")
			s.Remove("a")
			s.Nudge("a")
			time.Sleep(2 * interval)
			synctest.Wait()
			if r.count("a") != 0 {
				t.Errorf("rotated at %v", r.of("a"))
			}
		})
	})
	t.Run("while rotated", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			s, r := scheduler(t, rotation.Options{}, func(ctx context.Context, _ string, _ int) (time.Time, error) {
				<-ctx.Done()
				ended <- ctx.Err()
				return time.Now().Add(interval), nil
			})
			s.Add("a", time.Now())
			synctest.Wait()
			s.Remove("a")
			s.Nudge("a")
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the rotation's context ended with %v", err)
			}
			time.Sleep(2 * interval)
			synctest.Wait()
			if r.count("a") != 1 {
				t.Errorf("rotated at %v", r.of("a"))
			}
		})
	})
	t.Run("while rotated, and added again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := make(chan struct{})
			s, r := scheduler(t, rotation.Options{}, func(_ context.Context, _ string, run int) (time.Time, error) {
				if run == 1 {
					<-gate // deaf to the cancellation
				}
				return time.Time{}, errors.New("removed")
			})
			s.Add("a", time.Now())
			synctest.Wait()
			s.Remove("a")
			s.Add("a", time.Now().Add(interval))
			time.Sleep(2 * interval)
			synctest.Wait()
			if r.count("a") != 1 {
				t.Fatalf("rotated beside the rotation that was ending: %v", r.of("a"))
			}
			close(gate)
			synctest.Wait()
			if r.count("a") != 2 {
				t.Errorf("not rotated when it was due again: %v", r.of("a"))
			}
		})
	})
	t.Run("nudges of the one before do not count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, r := scheduler(t, rotation.Options{}, func(ctx context.Context, _ string, _ int) (time.Time, error) {
				time.Sleep(time.Second) // deaf to the cancellation
				return time.Time{}, nil
			})
			s.Add("a", time.Now())
			synctest.Wait()
			s.Nudge("a")
			s.Remove("a")
			s.Nudge("a")
			s.Add("a", time.Now().Add(interval))
			time.Sleep(interval / 2)
			synctest.Wait()
			if r.count("a") != 1 {
				t.Errorf("rotated at %v, before it was due", r.of("a"))
			}
		})
	})
}

func TestRunWaitsForRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s, err := rotation.New(rotation.Options{Rotate: func(context.Context, string) (time.Time, error) {
			<-gate
			return time.Time{}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		s.Add("a", time.Now())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case <-done:
			t.Error("Run returned while a rotation ran")
		default:
		}
		close(gate)
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
