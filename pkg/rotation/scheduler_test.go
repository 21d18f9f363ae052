package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/rotation"
)

const interval = 100 * time.Second

// runs records when each volume was rotated, and fails the test if one is rotated twice at a time.
type runs struct {
	t     *testing.T
	start time.Time
	do    func(ctx context.Context, id string, run int) (time.Time, error) // run counts from 1 per volume

	mu      sync.Mutex
	at      map[string][]time.Duration // volume ID → starts, since the test began
	running map[string]bool
}

func (r *runs) rotate(ctx context.Context, id string) (time.Time, error) {
	r.mu.Lock()
	if r.running[id] {
		r.t.Errorf("%s is rotated by two workers", id)
	}
	r.running[id] = true
	r.at[id] = append(r.at[id], time.Since(r.start))
	n := len(r.at[id])
	r.mu.Unlock()

	defer func() {
		r.mu.Lock()
		r.running[id] = false
		r.mu.Unlock()
	}()
	return r.do(ctx, id, n)
}

func (r *runs) of(id string) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at[id]
}

func (r *runs) count(id string) int { return len(r.of(id)) }

// scheduler starts a scheduler that ends with the test. It must be called inside a synctest bubble.
func scheduler(t *testing.T, opts rotation.Options, do func(context.Context, string, int) (time.Time, error)) (*rotation.Scheduler, *runs) {
	t.Helper()
	r := &runs{t: t, start: time.Now(), do: do, at: map[string][]time.Duration{}, running: map[string]bool{}}
	opts.Rotate = r.rotate
	s, err := rotation.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, r
}

// never is the outcome of a rotation after which the volume waits for a nudge.
func never(context.Context, string, int) (time.Time, error) { return time.Time{}, nil }

// between fails the test if a duration is not in [low, high].
func between(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: %v, want %v to %v", what, got, low, high)
	}
}

func TestRotatesWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{}, func(context.Context, string, int) (time.Time, error) {
			return time.Now().Add(interval), nil
		})
		s.Add("a", time.Now().Add(interval))
		time.Sleep(10 * interval)
		synctest.Wait()
		previous := time.Duration(0)
		for i, at := range r.of("a") {
			between(t, fmt.Sprintf("pause before rotation %d", i+1), at-previous, interval*9/10, interval)
			previous = at
		}
		if n := r.count("a"); n < 10 {
			t.Errorf("%d rotations in ten intervals", n)
		}
	})
}

func TestContextEndsWithTheRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rotating context.Context
		s, _ := scheduler(t, rotation.Options{}, func(ctx context.Context, _ string, _ int) (time.Time, error) {
			rotating = ctx
			return time.Time{}, ctx.Err()
		})
		s.Add("a", time.Now())
		synctest.Wait()
		if err := rotating.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("the context of a rotation that is done: %v", err)
		}
	})
}

func TestVolumesOfOneIntervalDoNotBunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{}, never)
		const volumes = 1000
		for i := range volumes {
			s.Add(fmt.Sprint(i), time.Now().Add(interval))
		}
		time.Sleep(interval)
		synctest.Wait()
		perSecond := map[time.Duration]int{}
		for i := range volumes {
			at := r.of(fmt.Sprint(i))
			if len(at) != 1 {
				t.Fatalf("volume %d was rotated %d times", i, len(at))
			}
			perSecond[at[0].Truncate(time.Second)]++
		}
		for second, n := range perSecond {
			if n > volumes/5 { // a tenth of them is expected in each of ten seconds
				t.Errorf("%d of %d volumes came due at %v", n, volumes, second)
			}
		}
	})
}

func TestEarlierVolumeWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{}, never)
		s.Add("late", time.Now().Add(interval))
		synctest.Wait() // Run now waits for "late"
		s.Add("early", time.Now().Add(10*time.Second))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if r.count("early") != 1 || r.count("late") != 0 {
			t.Errorf("early: %v, late: %v", r.of("early"), r.of("late"))
		}
	})
}

func TestAddAgainReplacesDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{}, never)
		s.Add("moved", time.Now().Add(interval))
		s.Add("moved", time.Now().Add(3*interval))
		s.Add("stopped", time.Now().Add(interval))
		s.Add("stopped", time.Time{})
		time.Sleep(2 * interval)
		synctest.Wait()
		if r.count("moved") != 0 || r.count("stopped") != 0 {
			t.Errorf("rotated at the old time: moved %v, stopped %v", r.of("moved"), r.of("stopped"))
		}
		s.Nudge("stopped")
		time.Sleep(interval)
		synctest.Wait()
		if r.count("moved") != 1 || r.count("stopped") != 1 {
			t.Errorf("moved %v, stopped %v", r.of("moved"), r.of("stopped"))
		}
	})
}

func TestDueInThePastDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{}, func(context.Context, string, int) (time.Time, error) {
			return time.Now().Add(-time.Hour), nil
		})
		s.Add("a", time.Now())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := r.count("a"); n < 2 || n > 30 {
			t.Errorf("%d rotations in ten seconds", n)
		}
	})
}

func TestNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s, r := scheduler(t, rotation.Options{}, func(context.Context, string, int) (time.Time, error) {
			<-gate
			return time.Now().Add(interval), nil
		})
		s.Nudge("unknown")
		s.Add("a", time.Now().Add(interval))
		time.Sleep(time.Second)
		s.Nudge("a", "a")
		s.Nudge("a")
		synctest.Wait()
		if diff := cmp.Diff([]time.Duration{time.Second}, r.of("a")); diff != "" {
			t.Errorf("nudged before it was due (-want +got):\n%s", diff)
		}

		// While it runs, any number of nudges is one more rotation.
		time.Sleep(time.Second)
		s.Nudge("a")
		s.Nudge("a")
		gate <- struct{}{}
		synctest.Wait()
		gate <- struct{}{}
		synctest.Wait()
		if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second}, r.of("a")); diff != "" {
			t.Errorf("nudged while rotated (-want +got):\n%s", diff)
		}
		close(gate)
		time.Sleep(interval)
		synctest.Wait()
		if r.count("a") != 3 || r.count("unknown") != 0 {
			t.Errorf("after an interval: a %v, unknown %v", r.of("a"), r.of("unknown"))
		}
	})
}

func TestNudgeOfManyIsSpreadByWorkersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const volumes, workers, each = 1000, 4, 2 * time.Millisecond
		s, r := scheduler(t, rotation.Options{Workers: workers}, func(context.Context, string, int) (time.Time, error) {
			time.Sleep(each)
			return time.Time{}, nil
		})
		var ids []string
		for i := range volumes {
			ids = append(ids, fmt.Sprint(i))
			s.Add(ids[i], time.Now().Add(interval))
		}
		s.Nudge(ids...)
		time.Sleep(volumes / workers * each)
		synctest.Wait()
		for _, id := range ids {
			if r.count(id) != 1 {
				t.Fatalf("volume %s was rotated %d times in %v", id, r.count(id), volumes/workers*each)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken = true
		s, r := scheduler(t, rotation.Options{}, func(context.Context, string, int) (time.Time, error) {
			if broken {
				return time.Time{}, errors.New("store is down")
			}
			return time.Now().Add(interval), nil
		})
		s.Add("a", time.Now())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		at := r.of("a")
		want := time.Second
		for i := 1; i < len(at); i++ {
			between(t, fmt.Sprintf("pause after failure %d", i), at[i]-at[i-1], want/2, want)
			want = min(2*want, 2*time.Minute)
		}
		if len(at) < 9 {
			t.Fatalf("only %d attempts", len(at))
		}

		// A nudge is one attempt at once, and the pause after it is as long as ever.
		before := r.count("a")
		s.Nudge("a")
		synctest.Wait()
		nudged := time.Since(r.start)
		if n := r.count("a"); n != before+1 {
			t.Fatalf("a nudge made %d attempts", n-before)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		between(t, "pause after the nudge", r.of("a")[before+1]-nudged, time.Minute, 2*time.Minute)

		// A success ends it: the next failure waits for a second again.
		broken = false
		s.Nudge("a")
		synctest.Wait()
		broken = true
		s.Nudge("a")
		synctest.Wait()
		before, failed := r.count("a"), time.Since(r.start)
		time.Sleep(time.Second)
		synctest.Wait()
		if r.count("a") != before+1 {
			t.Fatalf("%d attempts in the second after the first failure", r.count("a")-before)
		}
		between(t, "pause after success and failure", r.of("a")[before]-failed, time.Second/2, time.Second)
	})
}

func TestAddKeepsANudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s, r := scheduler(t, rotation.Options{Workers: 1}, func(_ context.Context, id string, _ int) (time.Time, error) {
			if id == "slow" {
				<-gate
			}
			return time.Time{}, nil
		})
		s.Add("slow", time.Now())
		s.Add("a", time.Now().Add(interval))
		synctest.Wait()
		s.Nudge("a") // no worker is free
		s.Add("a", time.Now().Add(interval))
		close(gate)
		synctest.Wait()
		if r.count("a") != 1 {
			t.Error("the nudge was lost")
		}
	})
}

func TestPanicIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		opts := rotation.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		s, r := scheduler(t, opts, func(_ context.Context, _ string, run int) (time.Time, error) {
			if run == 1 {
				panic("c4n4ry")
			}
			return time.Now().Add(interval), nil
		})
		s.Add("a", time.Now())
		time.Sleep(time.Second)
		synctest.Wait()
		if r.count("a") != 2 {
			t.Errorf("attempts at %v", r.of("a"))
		}
		if text := log.String(); strings.Contains(text, "c4n4ry") || !strings.Contains(text, "TestPanicIsAFailure") {
			t.Errorf("the log shows what was thrown, or hides where: %s", text)
		}
	})
}

// TestFailureAfterANudge reads in the log when a volume is tried again that was nudged a second before it failed.
func TestFailureAfterANudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		gate := make(chan error)
		opts := rotation.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		s, _ := scheduler(t, opts, func(context.Context, string, int) (time.Time, error) { return time.Now().Add(interval), <-gate })
		s.Add("a", time.Now())
		synctest.Wait()
		s.Nudge("a")
		time.Sleep(time.Second)
		gate <- errors.New("down")
		gate <- nil
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "retry_in=0s") {
			t.Errorf("the log says %s", text)
		}
	})
}

func TestTimeoutIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{Timeout: 5 * time.Second}, func(ctx context.Context, _ string, run int) (time.Time, error) {
			if run == 1 {
				<-ctx.Done()
				return time.Time{}, ctx.Err()
			}
			return time.Time{}, nil
		})
		s.Add("a", time.Now())
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.count("a") != 2 {
			t.Fatalf("attempts at %v", r.of("a"))
		}
		between(t, "second attempt", r.of("a")[1], 5*time.Second+time.Second/2, 6*time.Second)
	})
}

// TestConcurrentUse is for the race detector, and for the promise that a volume has one worker at a time.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := scheduler(t, rotation.Options{Workers: 8}, func(_ context.Context, _ string, run int) (time.Time, error) {
			time.Sleep(time.Duration(run%7) * time.Millisecond)
			if run%3 == 0 {
				return time.Time{}, errors.New("every third fails")
			}
			return time.Now().Add(time.Second), nil
		})
		var callers sync.WaitGroup
		for c := range 8 {
			callers.Go(func() {
				for i := range 500 {
					id := fmt.Sprint((c + i) % 20)
					switch i % 5 {
					case 0:
						s.Add(id, time.Now().Add(time.Duration(i)*time.Millisecond))
					case 1:
						s.Remove(id)
					default:
						s.Nudge(id)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		callers.Wait()
		before := map[string]int{}
		for i := range 20 {
			id := fmt.Sprint(i)
			before[id] = r.count(id)
			s.Add(id, time.Now())
			s.Nudge(id)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for id, n := range before {
			if r.count(id) == n {
				t.Errorf("%s was lost: not rotated after the last nudge", id)
			}
		}
	})
}
