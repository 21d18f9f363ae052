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

// installScript replaces the fixture's provider by one whose calls the test answers.
func (f *fixture) installScript(settings resolve.Settings) *script {
	s := newScript()
	f.Install(resolve.Store{Name: "s", Provider: s, Settings: settings})
	return s
}

func TestReaderThatGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		s := f.installScript(resolve.Settings{})
		ctx, cancel := context.WithCancel(t.Context())
		first := start(ctx, f.Resolver, read(t, "a"))
		synctest.Wait()
		second := start(t.Context(), f.Resolver, read(t, "a"))
		short, cancelShort := context.WithTimeout(t.Context(), time.Second)
		defer cancelShort()
		third := start(short, f.Resolver, read(t, "a"))
		synctest.Wait()

		cancel()
		synctest.Wait()
		got := <-first
		wantError(t, got.err, read(t, "a"), providers.Unknown)
		if !errors.Is(got.err, context.Canceled) {
			t.Errorf("the reader that gave up got %v", got.err)
		}
		advance(time.Second)
		got = <-third
		wantError(t, got.err, read(t, "a"), providers.Unavailable)
		if !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("the reader with a short deadline got %v", got.err)
		}
		(<-s.calls).answer <- one("1")
		if got := <-second; got.err != nil || got.value() != "1" {
			t.Errorf("the reader that stayed got %q, %v", got.value(), got.err)
		}
		if len(s.calls) != 0 {
			t.Error("one flight made several calls")
		}
	})
}

// A call under way may have read before the change that a fresh reader is after, so that reader waits for another one;
// everyone who comes meanwhile shares it.
func TestFreshJoinsOnlyAFlightThatHasNotBegun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		s := f.installScript(resolve.Settings{})
		req := read(t, "a")
		fresh := req
		fresh.Fresh = true

		first := start(t.Context(), f.Resolver, req)
		synctest.Wait()
		joined := start(t.Context(), f.Resolver, req)
		synctest.Wait()
		var later []<-chan outcome
		for range 5 {
			later = append(later, start(t.Context(), f.Resolver, fresh))
			synctest.Wait()
		}
		later = append(later, start(t.Context(), f.Resolver, req)) // joins the youngest flight
		synctest.Wait()
		if s.running.Load() != 1 {
			t.Errorf("%d calls for one secret at once", s.running.Load())
		}
		(<-s.calls).answer <- one("before")
		for _, c := range []<-chan outcome{first, joined} {
			if got := <-c; got.value() != "before" {
				t.Errorf("an ordinary reader got %q, %v", got.value(), got.err)
			}
		}
		(<-s.calls).answer <- one("after")
		for _, c := range later {
			if got := <-c; got.value() != "after" {
				t.Errorf("a later reader got %q, %v", got.value(), got.err)
			}
		}
		if len(s.calls) != 0 {
			t.Error("there was a third call")
		}
	})
}

func TestFreshAsksDespiteTheCache(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	req := read(t, "a")
	f.want(req, "1", false, 1)
	f.put("a", "2")
	f.want(req, "1", false, 1)
	req.Fresh = true
	f.want(req, "2", false, 2)
	req.Fresh = false
	f.want(req, "2", false, 2)
	f.store.FailName("a", providers.Errorf(providers.Unavailable, "down"))
	req.Fresh = true
	f.wantKind(req, providers.Unavailable, 4)
	req.Fresh = false
	f.want(req, "2", false, 4) // still young enough
}

// What a call that was overtaken by a change brings is not kept as fresh.
func TestChangeDuringAFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		s := f.installScript(resolve.Settings{})
		before := start(t.Context(), f.Resolver, read(t, "a"))
		synctest.Wait()
		f.Invalidate("s", "b") // concerns another secret
		joined := start(t.Context(), f.Resolver, read(t, "a"))
		synctest.Wait()
		f.Invalidate("s", "a")
		after := start(t.Context(), f.Resolver, read(t, "a"))
		synctest.Wait()
		f.Invalidate("s", "a") // the second call has not begun, so it will see this change too
		(<-s.calls).answer <- one("old")
		for _, c := range []<-chan outcome{before, joined} {
			if got := <-c; got.value() != "old" {
				t.Errorf("a reader from before the change got %q, %v", got.value(), got.err)
			}
		}
		synctest.Wait()
		last := start(t.Context(), f.Resolver, read(t, "a"))
		synctest.Wait()
		(<-s.calls).answer <- one("new")
		for _, c := range []<-chan outcome{after, last} {
			if got := <-c; got.value() != "new" {
				t.Errorf("a reader from after the change got %q, %v", got.value(), got.err)
			}
		}
		if len(s.calls) != 0 {
			t.Error("there was a third call")
		}

		// Without a reader after the change: the next one must ask again.
		again := read(t, "a")
		again.Fresh = true
		before = start(t.Context(), f.Resolver, again)
		synctest.Wait()
		f.Invalidate("s", "")
		(<-s.calls).answer <- one("old")
		<-before
		next := start(t.Context(), f.Resolver, read(t, "a"))
		(<-s.calls).answer <- one("new")
		if got := <-next; got.value() != "new" {
			t.Errorf("the next reader got %q, %v", got.value(), got.err)
		}
	})
}

// What a flight of a replaced store brings is for its readers only.
func TestReplacedStoreAnnouncesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var changed changes
		f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		release := f.store.Hang()
		fresh := read(t, "a")
		fresh.Fresh = true
		slow := start(t.Context(), f.Resolver, fresh)
		synctest.Wait()
		f.put("a", "2")
		f.Remove("s")
		changed.take()
		release()
		if got := <-slow; got.value() != "2" {
			t.Errorf("%q, %v", got.value(), got.err)
		}
		if got := changed.take(); got != nil {
			t.Errorf("announced %v", got)
		}
	})
}

func TestProviderThatIgnoresItsDeadline(t *testing.T) {
	const limit = 64 // calls of one store at a time
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		s := f.installScript(resolve.Settings{RequestTimeout: 2 * time.Second})
		begun := time.Now()
		var readers []<-chan outcome
		for i := range limit + 20 {
			readers = append(readers, start(t.Context(), f.Resolver, read(t, fmt.Sprint("secret", i))))
		}
		synctest.Wait()
		if got := s.running.Load(); got != limit {
			t.Errorf("%d calls at a time, want %d", got, limit)
		}
		for i, c := range readers {
			got := <-c
			wantError(t, got.err, read(t, fmt.Sprint("secret", i)), providers.Unavailable)
			if !errors.Is(got.err, context.DeadlineExceeded) {
				t.Errorf("reader %d: %v", i, got.err)
			}
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("the readers waited %v", took)
		}
		// Late answers are thrown away, and their slots can be used again.
		for range limit {
			(<-s.calls).answer <- one("late")
		}
		synctest.Wait()
		if got := s.running.Load(); got != 0 {
			t.Errorf("%d calls are still running", got)
		}
		advance(5 * time.Second) // the circuit was opened
		next := start(t.Context(), f.Resolver, read(t, "secret0"))
		(<-s.calls).answer <- one("in time")
		if got := <-next; got.err != nil || got.value() != "in time" {
			t.Errorf("afterwards: %q, %v", got.value(), got.err)
		}
	})
}

func TestProviderThatPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log buffer
		f := newFixtureWith(t, resolve.Options{Logger: log.logger()}, resolve.Settings{})
		f.Install(resolve.Store{Name: "s", Provider: fetchFunc(func(context.Context, providers.Query) (providers.Payload, error) {
			panic("with " + canary)
		})})
		_, err := f.Resolve(t.Context(), read(t, "a"))
		wantError(t, err, read(t, "a"), providers.Unknown)
		f.Close()
		if !strings.Contains(log.String(), "provider panicked") || strings.Contains(log.String()+err.Error(), canary) {
			t.Errorf("error %v, log %s", err, log.String())
		}
	})
}

func TestOddAnswers(t *testing.T) {
	plain := errors.New("not classified")
	driver := providers.Errorf(providers.NotFound, "no such secret")
	for name, tt := range map[string]struct {
		err  error
		kind providers.Kind
		text string
	}{
		"unclassified error":  {plain, providers.Unknown, `secret "a" of store "s": not classified`},
		"driver's error":      {driver, providers.NotFound, `secret "a" of store "s": no such secret`},
		"wrapped error":       {fmt.Errorf("read a: %w", driver), providers.NotFound, `secret "a" of store "s": read a: no such secret`},
		"error without cause": {&providers.Error{Kind: providers.Denied}, providers.Denied, `secret "a" of store "s": denied`},
		"own deadline":        {context.DeadlineExceeded, providers.Unavailable, `secret "a" of store "s": context deadline exceeded`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, resolve.Settings{})
				f.store.FailName("a", tt.err)
				_, err := f.Resolve(t.Context(), read(t, "a"))
				wantError(t, err, read(t, "a"), tt.kind)
				if err.Error() != tt.text {
					t.Errorf("got %q, want %q", err, tt.text)
				}
				if driver.Store != "" || driver.Name != "" {
					t.Error("the driver's error was changed")
				}
			})
		})
	}
	t.Run("no fields", func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		f.Install(resolve.Store{Name: "s", Provider: fetchFunc(func(context.Context, providers.Query) (providers.Payload, error) {
			return providers.Payload{}, nil
		})})
		res, err := f.Resolve(t.Context(), read(t, "a"))
		if err != nil || res.Fields != nil {
			t.Errorf("got %v, %v; want an empty payload", res.Fields, err)
		}
	})
}

func TestRetry(t *testing.T) {
	tests := []struct {
		name    string
		err     error
		fetches int
	}{
		{"unavailable", providers.Errorf(providers.Unavailable, "reset"), 2},
		{"unknown", errors.New("odd"), 2},
		{"unavailable until later", &providers.Error{Kind: providers.Unavailable, RetryAfter: time.Second, Err: errors.New("busy")}, 1},
		{"throttled", providers.Errorf(providers.Throttled, "slow down"), 1},
		{"not found", providers.Errorf(providers.NotFound, "none"), 1},
		{"denied", providers.Errorf(providers.Denied, "no"), 1},
		{"invalid", providers.Errorf(providers.Invalid, "nonsense"), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, resolve.Settings{})
				f.store.Fail(tt.err)
				begun := time.Now()
				f.wantKind(read(t, "a"), providers.KindOf(tt.err), tt.fetches)
				took := time.Since(begun)
				if retried := tt.fetches > 1; retried && (took < 50*time.Millisecond || took > 150*time.Millisecond) || !retried && took > 0 {
					t.Errorf("took %v", took)
				}
			})
		})
	}
	t.Run("that helps", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			f := newFixture(t, resolve.Settings{})
			f.put("a", "1")
			f.store.Fail(providers.Errorf(providers.Unavailable, "reset"))
			got := start(t.Context(), f.Resolver, read(t, "a"))
			synctest.Wait()
			f.store.Fail(nil)
			if got := <-got; got.err != nil || got.value() != "1" {
				t.Errorf("%q, %v", got.value(), got.err)
			}
			f.wantFetches(read(t, "a"), 2)
		})
	})
	t.Run("only within the deadline", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			f := newFixture(t, resolve.Settings{RequestTimeout: 40 * time.Millisecond})
			f.store.Fail(providers.Errorf(providers.Unavailable, "reset"))
			err := f.wantKind(read(t, "a"), providers.Unavailable, 1)
			if !strings.HasSuffix(err.Error(), "reset") {
				t.Errorf("the store's reason is lost: %v", err)
			}
		})
	})
}
