package resolve_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
)

var down = providers.Errorf(providers.Unavailable, "down")

func TestTokenBucket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{RequestsPerSecond: 2, Burst: 3, RequestTimeout: 2100 * time.Millisecond})
		begun := time.Now()
		var readers []<-chan outcome
		for i := range 12 {
			f.put(fmt.Sprint("secret", i), "1")
			readers = append(readers, start(t.Context(), f.Resolver, read(t, fmt.Sprint("secret", i))))
		}
		ok, throttled := 0, 0
		for _, c := range readers {
			switch got := <-c; {
			case got.err == nil:
				ok++
			case providers.KindOf(got.err) == providers.Throttled:
				throttled++
			default:
				t.Error(got.err)
			}
		}
		// 3 at once and 2 each second; the others would have had to wait beyond their deadline.
		if ok != 7 || throttled != 5 || f.store.Fetches("") != 7 {
			t.Errorf("%d read, %d throttled, %d calls", ok, throttled, f.store.Fetches(""))
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestStoreThatAsksToBeLeftAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		err  *providers.Error
		wait time.Duration
	}{
		"throttled for a time":   {&providers.Error{Kind: providers.Throttled, RetryAfter: 30 * time.Second, Err: errors.New("slow down")}, 30 * time.Second},
		"throttled":              {providers.Errorf(providers.Throttled, "slow down"), time.Second},
		"throttled for too long": {&providers.Error{Kind: providers.Throttled, RetryAfter: 240 * time.Hour, Err: errors.New("go away")}, 15 * time.Minute},
		"unavailable for a time": {&providers.Error{Kind: providers.Unavailable, RetryAfter: 30 * time.Second, Err: errors.New("busy")}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, resolve.Settings{CacheTTL: time.Minute})
				f.put("a", "1")
				f.put("b", "1")
				f.put("c", "1")
				f.want(read(t, "a"), "1", false, 1)
				advance(time.Minute)
				f.store.Fail(tt.err)
				f.wantKind(read(t, "b"), tt.err.Kind, 1)
				f.store.Fail(nil)

				advance(tt.wait / 2)
				f.want(read(t, "a"), "1", true, 1)
				err := f.wantKind(read(t, "c"), providers.Throttled, 0)
				if got := providers.RetryAfter(err); got != tt.wait/2 {
					t.Errorf("retry after %v, want %v", got, tt.wait/2)
				}
				fresh := read(t, "a")
				fresh.Fresh = true
				f.wantKind(fresh, providers.Throttled, 1)

				advance(tt.wait / 2)
				f.want(read(t, "c"), "1", false, 1)
				f.want(read(t, "a"), "1", false, 2)
			})
		})
	}
}

func TestShorterRetryAfterDoesNotEndALongerOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		f.Install(resolve.Store{Name: "s", Provider: fetchFunc(func(_ context.Context, q providers.Query) (providers.Payload, error) {
			wait := 30 * time.Second
			if q.Name == "short" {
				<-time.After(time.Second)
				wait = 2 * time.Second
			}
			return providers.Payload{}, &providers.Error{Kind: providers.Throttled, RetryAfter: wait, Err: errors.New("slow down")}
		})})
		short := start(t.Context(), f.Resolver, read(t, "short"))
		synctest.Wait()
		f.wantKind(read(t, "long"), providers.Throttled, 0)
		<-short
		err := f.wantKind(read(t, "a"), providers.Throttled, 0)
		if got := providers.RetryAfter(err); got != 29*time.Second {
			t.Errorf("retry after %v", got)
		}
	})
}

func TestStale(t *testing.T) {
	for _, kind := range []providers.Kind{providers.Unavailable, providers.Throttled, providers.Unknown} {
		t.Run(kind.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, resolve.Settings{CacheTTL: time.Minute, StaleFor: 10 * time.Minute})
				f.put("a", "1")
				fetched := f.want(read(t, "a"), "1", false, 1).FetchedAt
				f.store.Fail(providers.Errorf(kind, "failing"))
				advance(11*time.Minute - time.Second)
				res := f.want(read(t, "a"), "1", true, f.store.Fetches("a")+calls(kind))
				if !res.FetchedAt.Equal(fetched) || res.ExpiresAt.After(time.Now()) {
					t.Errorf("fetched at %v, expires %v", res.FetchedAt, res.ExpiresAt)
				}
				advance(time.Second)
				if _, err := f.Resolve(t.Context(), read(t, "a")); err == nil {
					t.Error("served after its time")
				}
				f.store.Fail(nil)
				advance(time.Minute)
				f.want(read(t, "a"), "1", false, f.store.Fetches("a")+1)
			})
		})
	}
}

// calls returns how many calls a flight makes that fails with kind.
func calls(kind providers.Kind) int {
	if kind == providers.Throttled {
		return 1
	}
	return 2
}

func TestStaleOnTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{RequestTimeout: 3 * time.Second})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		advance(time.Minute)
		defer f.store.Hang()()
		begun := time.Now()
		f.want(read(t, "a"), "1", true, 2)
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestStaleListing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{StaleFor: time.Minute})
		f.put("a", "1")
		for range 2 {
			l, err := f.List(t.Context(), list(t))
			if err != nil || len(l.Names) != 1 {
				t.Errorf("%v, %v", l.Names, err)
			}
			if fresh := l.ExpiresAt.Equal(l.FetchedAt.Add(time.Minute)); fresh == l.Stale || time.Since(l.FetchedAt) > 0 != l.Stale {
				t.Errorf("stale %t, fetched %v, expires %v", l.Stale, l.FetchedAt, l.ExpiresAt)
			}
			f.store.Fail(down)
			advance(time.Minute)
		}
		if _, err := f.List(t.Context(), list(t)); providers.KindOf(err) != providers.Unavailable {
			t.Errorf("after the stale time: %v", err)
		}
	})
}

func TestNotStale(t *testing.T) {
	tests := []struct {
		name     string
		settings resolve.Settings
		notAfter time.Duration
		age      time.Duration
		fresh    bool
	}{
		{"switched off", resolve.Settings{StaleFor: -1}, 0, 2 * time.Minute, false},
		{"switched off, young but outdated", resolve.Settings{StaleFor: -1}, 0, time.Second, false},
		{"content no longer valid", resolve.Settings{}, 2 * time.Minute, 2 * time.Minute, false},
		{"fresh wanted", resolve.Settings{}, 0, 2 * time.Minute, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, tt.settings)
				p := one("1")
				if tt.notAfter > 0 {
					p.NotAfter = time.Now().Add(tt.notAfter)
				}
				f.store.PutPayload("", "a", p)
				f.want(read(t, "a"), "1", false, 1)
				f.store.Fail(down)
				f.Invalidate("s", "a")
				advance(tt.age)
				req := read(t, "a")
				req.Fresh = tt.fresh
				f.wantKind(req, providers.Unavailable, 3)
			})
		})
	}
}

func TestOutdatedAnswerMayBeStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		f.Invalidate("s", "a")
		f.store.Fail(down)
		res := f.want(read(t, "a"), "1", true, 3)
		if res.ExpiresAt.After(time.Now()) {
			t.Errorf("a stale answer claims to be good until %v", res.ExpiresAt)
		}
	})
}

func TestStaleIsLoggedOncePerStreak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log buffer
		f := newFixtureWith(t, resolve.Options{Logger: log.logger()}, resolve.Settings{CacheTTL: time.Second})
		warnings := func() int { return strings.Count(log.String(), "refresh failed") }
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		for streak := range 2 {
			f.store.FailName("a", down)
			advance(time.Second)
			for range 2 {
				f.want(read(t, "a"), "1", true, f.store.Fetches("a")+2)
			}
			if warnings() != streak+1 {
				t.Errorf("%d warnings after %d streaks", warnings(), streak+1)
			}
			f.store.FailName("a", nil)
			f.want(read(t, "a"), "1", false, f.store.Fetches("a")+1)
		}
	})
}

func TestCircuitBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log buffer
		f := newFixtureWith(t, resolve.Options{Logger: log.logger()}, resolve.Settings{CacheTTL: time.Second})
		for _, name := range []string{"a", "b", "c", "d"} {
			f.put(name, "1")
		}
		f.want(read(t, "a"), "1", false, 1)
		f.store.Fail(down)
		f.wantKind(read(t, "b"), providers.Unavailable, 2)
		f.wantKind(read(t, "b"), providers.Unavailable, 4)
		f.wantKind(read(t, "b"), providers.Unavailable, 5) // the fifth failure opens it, so no retry
		f.wantKind(read(t, "b"), providers.Unavailable, 5)
		err := f.wantKind(read(t, "c"), providers.Unavailable, 0)
		if !strings.HasSuffix(err.Error(), "circuit open after 5 failures, next try in 5s") || providers.RetryAfter(err) != 5*time.Second {
			t.Errorf("%v, retry after %v", err, providers.RetryAfter(err))
		}
		advance(time.Second)
		f.want(read(t, "a"), "1", true, 1) // stale, without a call

		advance(4 * time.Second)
		f.wantKind(read(t, "b"), providers.Unavailable, 6) // the test call
		err = f.wantKind(read(t, "c"), providers.Unavailable, 0)
		if !strings.HasSuffix(err.Error(), "circuit open after 6 failures, next try in 10s") {
			t.Error(err)
		}
		advance(10 * time.Second)
		f.store.Fail(nil)
		f.want(read(t, "c"), "1", false, 1) // the test call closes it
		f.want(read(t, "b"), "1", false, 7)
		if got := log.String(); strings.Count(got, "circuit opened") != 2 || strings.Count(got, "circuit closed") != 1 {
			t.Errorf("log: %s", got)
		}
		f.store.Fail(down)
		f.wantKind(read(t, "d"), providers.Unavailable, 2) // counts from zero again
		f.wantKind(read(t, "d"), providers.Unavailable, 4)
	})
}

func TestHalfOpenCircuitTestsWithOneCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		f.store.Fail(down)
		for range 3 {
			f.wantKind(read(t, "a"), providers.Unavailable, min(f.store.Fetches("a")+2, 5))
		}
		advance(5 * time.Second)
		f.store.Fail(nil)
		f.put("a", "1")
		f.put("b", "1")
		release := f.store.Hang()
		probe := start(t.Context(), f.Resolver, read(t, "a"))
		synctest.Wait()
		f.wantKind(read(t, "b"), providers.Unavailable, 0)
		release()
		if got := <-probe; got.err != nil {
			t.Errorf("the test call: %v", got.err)
		}
		f.want(read(t, "b"), "1", false, 1)
	})
}

func TestOnlyFailuresOpenTheCircuit(t *testing.T) {
	for _, kind := range []providers.Kind{providers.NotFound, providers.Denied, providers.Invalid} {
		t.Run(kind.String(), func(t *testing.T) {
			f := newFixture(t, resolve.Settings{NegativeTTL: 1})
			f.store.Fail(providers.Errorf(kind, "no"))
			for i := range 20 {
				f.wantKind(read(t, fmt.Sprint("secret", i)), kind, 1)
			}
			f.store.Fail(nil)
			f.put("good", "1")
			f.want(read(t, "good"), "1", false, 1)
		})
	}
}

// Many calls that have come past the token bucket are refused by the circuit; they must not use up the slots.
func TestRefusedCallsGiveTheirSlotsBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{RequestsPerSecond: 100, Burst: 5})
		f.store.Fail(down)
		release := f.store.Hang()
		var readers []<-chan outcome
		for i := range 100 {
			readers = append(readers, start(t.Context(), f.Resolver, read(t, fmt.Sprint("secret", i))))
		}
		synctest.Wait() // 5 calls under way, 95 readers at the bucket
		release()
		for _, c := range readers {
			if got := <-c; providers.KindOf(got.err) != providers.Unavailable {
				t.Error(got.err)
			}
		}
		if got := f.store.Fetches(""); got != 5 {
			t.Errorf("%d calls before the circuit opened", got)
		}
		f.store.Fail(nil)
		f.put("a", "1")
		advance(5 * time.Second)
		f.want(read(t, "a"), "1", false, 1)
	})
}

// A call that began before the circuit opened and ends after it must not close it.
func TestLateAnswerDoesNotCloseTheCircuit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		answer := make(chan struct{})
		f.Install(resolve.Store{Name: "s", Provider: fetchFunc(func(_ context.Context, q providers.Query) (providers.Payload, error) {
			if q.Name == "slow" {
				<-answer
				return one("1"), nil
			}
			return providers.Payload{}, down
		})})
		slow := start(t.Context(), f.Resolver, read(t, "slow"))
		synctest.Wait()
		for range 3 {
			f.wantKind(read(t, "a"), providers.Unavailable, 0)
		}
		close(answer)
		if got := <-slow; got.err != nil || got.value() != "1" {
			t.Errorf("%q, %v", got.value(), got.err)
		}
		_, err := f.Resolve(t.Context(), read(t, "a"))
		if err == nil || !strings.Contains(err.Error(), "circuit open") {
			t.Errorf("got %v, want an open circuit", err)
		}
	})
}
