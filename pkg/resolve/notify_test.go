package resolve_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
)

// run runs the resolver until the returned func is called, which returns what Run returned.
func run(t *testing.T, r *resolve.Resolver) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	return func() error {
		cancel()
		return <-done
	}
}

func TestNotifications(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var changed changes
		f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{CacheTTL: time.Hour})
		f.put("a", "1")
		stop := run(t, f.Resolver)
		f.want(read(t, "a"), "1", false, 1)
		changed.take()

		f.put("a", "2")
		synctest.Wait()
		if diff := cmp.Diff([]string{"s/a"}, changed.take()); diff != "" {
			t.Error(diff)
		}
		f.want(read(t, "a"), "2", false, 2)

		later := providertest.NewMemory() // installed while Run runs
		f.Install(resolve.Store{Name: "other", Provider: later.Provider()})
		f.Install(resolve.Store{Name: "third", Provider: fetchFunc(nil)}) // cannot notify
		synctest.Wait()
		if f.store.Notifying() != 1 || later.Notifying() != 1 {
			t.Errorf("%d and %d calls of Notify", f.store.Notifying(), later.Notifying())
		}
		f.Remove("s")
		synctest.Wait()
		if f.store.Notifying() != 0 {
			t.Error("still listening to a store that was removed")
		}
		if err := stop(); err != nil {
			t.Errorf("Run returned %v", err)
		}
		if later.Notifying() != 0 {
			t.Error("still listening after Run")
		}
		stop = run(t, f.Resolver)
		if later.Notifying() != 1 {
			t.Error("a second Run does not listen")
		}
		_ = stop()
	})
}

func TestNotificationsThatBreak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var changed changes
		var log buffer
		f := newFixtureWith(t, resolve.Options{Changed: changed.add, Logger: log.logger()}, resolve.Settings{CacheTTL: time.Hour})
		f.put("a", "1")
		stop := run(t, f.Resolver)
		f.want(read(t, "a"), "1", false, 1)
		changed.take()
		f.store.BreakNotify(errors.New("connection lost"))
		synctest.Wait()
		f.put("a", "2") // missed
		if f.store.Notifying() != 0 || !strings.Contains(log.String(), "connection lost") {
			t.Fatalf("notifications did not break: %s", log.String())
		}
		f.want(read(t, "a"), "1", false, 1)
		advance(1500 * time.Millisecond)
		if f.store.Notifying() != 1 {
			t.Fatal("not listening again")
		}
		if diff := cmp.Diff([]string{"s/"}, changed.take()); diff != "" {
			t.Error(diff)
		}
		f.want(read(t, "a"), "2", false, 2)
		_ = stop()
	})
}

func TestNotifyBackoff(t *testing.T) {
	for name, notify := range map[string]notifyFunc{
		"error":  func(context.Context, func(string)) error { return errors.New("broken") },
		"return": func(context.Context, func(string)) error { return nil },
		"panic":  func(context.Context, func(string)) error { panic(canary) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var calls atomic.Int64
				var log buffer
				f := newFixtureWith(t, resolve.Options{Logger: log.logger()}, resolve.Settings{})
				f.Install(resolve.Store{Name: "s", Provider: notifyFunc(func(ctx context.Context, changed func(string)) error {
					calls.Add(1)
					return notify(ctx, changed)
				})})
				stop := run(t, f.Resolver)
				advance(time.Hour)
				// A minute apart on average after the first few; never more than twice as often.
				if got := calls.Load(); got < 40 || got > 130 {
					t.Errorf("%d calls in an hour", got)
				}
				_ = stop()
				if strings.Contains(log.String(), canary) {
					t.Error("the log shows what the provider panicked with")
				}
			})
		})
	}
}

func TestRemoveEndsNotify(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var changed changes
		f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{})
		ended := false
		f.Install(resolve.Store{Name: "s", Provider: notifyFunc(func(ctx context.Context, changed func(string)) error {
			<-ctx.Done()
			changed("late")
			ended = true
			return nil
		})})
		stop := run(t, f.Resolver)
		f.Remove("s")
		changed.take()
		synctest.Wait()
		if !ended {
			t.Error("Notify goes on after the store was removed")
		}
		if got := changed.take(); got != nil {
			t.Errorf("a removed store announced %v", got)
		}
		_ = stop()
	})
}

// A source that has worked for long starts again with the shortest pause.
func TestNotifyBackoffStartsAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		var calls atomic.Int64
		f.Install(resolve.Store{Name: "s", Provider: notifyFunc(func(ctx context.Context, _ func(string)) error {
			if calls.Add(1)%10 == 0 {
				select {
				case <-ctx.Done():
				case <-time.After(time.Hour):
				}
			}
			return errors.New("broken")
		})})
		stop := run(t, f.Resolver)
		for calls.Load() < 10 {
			advance(time.Second)
		}
		advance(time.Hour + 5*time.Second)
		if got := calls.Load(); got < 11 {
			t.Errorf("%d calls: not called again soon after an hour of work", got)
		}
		_ = stop()
	})
}
