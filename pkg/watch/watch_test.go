package watch_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

// minutely is a store that is read again every minute.
var minutely = resolve.Settings{RefreshInterval: time.Minute, CacheTTL: time.Minute, NegativeTTL: time.Second}

func TestPolling(t *testing.T) {
	bubble(t, watch.Options{}, minutely, func(f *fixture) {
		f.put("a", "1")
		s := f.subscribe("app", "a")
		defer s.Close()
		s.want("a=1")
		f.put("a", "2")
		time.Sleep(50 * time.Second) // of the bubble
		s.want()
		time.Sleep(20 * time.Second)
		s.want("a=2")
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-s.Ready():
			t.Error("a watcher is woken for nothing")
		default:
		}
	})
}

// TestOneRead has many watchers of one secret cost the store one read per interval, and wake them all.
func TestOneRead(t *testing.T) {
	bubble(t, watch.Options{}, minutely, func(f *fixture) {
		f.put("a", "1")
		var all []*subscription
		for i := range 100 {
			s := f.subscribe(fmt.Sprint("app", i), "a")
			defer s.Close()
			all = append(all, s)
		}
		for _, s := range all {
			s.want("a=1")
		}
		f.put("a", "2")
		time.Sleep(10 * time.Minute)
		for _, s := range all {
			s.want("a=2")
		}
		if n := f.memory.Fetches("a"); n < 10 || n > 11 {
			t.Errorf("%d reads in ten minutes of a minute's interval, want one each", n)
		}
	})
}

// TestNotification delivers at once what a store announces, the change of a listing included.
func TestNotification(t *testing.T) {
	bubble(t, watch.Options{}, resolve.Settings{CacheTTL: time.Hour}, func(f *fixture) {
		f.put("a", "1")
		f.put("b", "1")
		one, all := f.subscribe("app", "a"), f.subscribe("app", "")
		defer one.Close()
		defer all.Close()
		one.want("a=1")
		all.want("a=1", "b=1")

		f.put("a", "2")
		f.resolver.Invalidate(store, "a")
		one.want("a=2")
		all.want("a=2")

		f.put("c", "1")
		f.memory.Delete("b")
		f.resolver.Invalidate(store, "c")
		one.want()
		all.want("b: not found", "c=1")

		f.put("a", "3")
		f.put("c", "3")
		f.resolver.Invalidate(store, "")
		one.want("a=3")
		all.want("a=3", "c=3")
	})
}

// TestLatestWins leaves out what came between two visits of a slow watcher.
func TestLatestWins(t *testing.T) {
	bubble(t, watch.Options{}, minutely, func(f *fixture) {
		f.put("a", "0")
		slow, quick := f.subscribe("slow", "a"), f.subscribe("quick", "a")
		defer slow.Close()
		defer quick.Close()
		slow.want("a=0")
		quick.want("a=0")
		for i := 1; i <= 5; i++ {
			f.put("a", fmt.Sprint(i))
			f.resolver.Invalidate(store, "a")
			quick.want(fmt.Sprint("a=", i))
		}
		slow.want("a=5")
		f.put("a", "6")
		f.resolver.Invalidate(store, "a")
		quick.want("a=6")
		f.put("a", "5")
		f.resolver.Invalidate(store, "a")
		slow.want() // it has that
		quick.want("a=5")
	})
}

func TestPolicyEndsSubscription(t *testing.T) {
	bubble(t, watch.Options{}, minutely, func(f *fixture) {
		f.put("a", "1")
		f.put("b", "1")
		keyed, all := f.subscribe("app", "a", "b"), f.subscribe("app", "")
		defer keyed.Close()
		defer all.Close()
		keyed.want("a=1", "b=1")
		all.want("a=1", "b=1")

		f.put("b", "2")
		f.rules("b")
		f.resolver.Invalidate(store, "")
		_, err := keyed.take()
		var ended *watch.EndedError
		if !errors.As(err, &ended) || ended.Ref.Name != "b" || scope.RuleOf(err) == "" {
			t.Errorf("a watcher that lost a secret got %v", err)
		}
		all.want()
		f.put("a", "2")
		f.resolver.Invalidate(store, "a")
		all.want("a=2")
		f.rules() // b is allowed again
		all.want("b=2")

		f.policy.Set(&scope.Policy{})
		f.PolicyChanged()
		if _, err := all.take(); !errors.Is(err, scope.ErrStoreNotFound) {
			t.Errorf("a watcher that lost its store got %v", err)
		}
		if _, err := f.Subscribe(f.t.Context(), caller("app"), []scope.Ref{{Store: store, Name: "a"}}, nil); !errors.Is(err, scope.ErrStoreNotFound) {
			t.Errorf("a new watcher got %v", err)
		}
	})
}

// TestDeniedIsNotRead has a change, and a policy that forbids it, arrive together, in each order.
func TestDeniedIsNotRead(t *testing.T) {
	bubble(t, watch.Options{}, resolve.Settings{CacheTTL: time.Hour}, func(f *fixture) {
		f.put("a", "1")
		s := f.subscribe("app", "a")
		defer s.Close()
		s.want("a=1")
		f.put("a", "2")
		f.resolver.Invalidate(store, "a")
		synctest.Wait() // s is told to look
		f.rules("a")
		if got, err := s.take(); len(got) > 0 || err == nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestFailingStore(t *testing.T) {
	settings := minutely
	settings.StaleFor = 10 * time.Minute
	bubble(t, watch.Options{}, settings, func(f *fixture) {
		f.put("a", "1")
		s := f.subscribe("app", "a")
		defer s.Close()
		s.want("a=1")
		f.memory.Fail(providers.Errorf(providers.Unavailable, "down"))
		time.Sleep(2 * time.Minute)
		s.want("a stale=true")
		time.Sleep(2 * time.Minute)
		s.want()
		time.Sleep(10 * time.Minute)
		s.want("a: unavailable")
		f.memory.Fail(nil)
		time.Sleep(2 * time.Minute)
		s.want("a=1") // again, because it was said that there is none

		f.resolver.Remove(store)
		s.want("a: closed")
		f.install(settings)
		time.Sleep(time.Minute)
		s.want("a=1")
		f.memory.Delete("a")
		time.Sleep(2 * time.Minute)
		s.want("a: not found")
		f.put("a", "2")
		time.Sleep(2 * time.Minute)
		s.want("a=2")
	})
}

// TestHangingStore has a store that does not answer hold nobody up who watches another, nor Subscribe, Close and Changed.
func TestHangingStore(t *testing.T) {
	bubble(t, watch.Options{}, minutely, func(f *fixture) {
		release := f.memory.Hang()
		var stuck []*subscription
		for i := range 40 { // more than are read at a time
			stuck = append(stuck, f.subscribe("app", fmt.Sprint("x", i)))
		}
		synctest.Wait()
		f.Changed(store, "")
		quick := providertest.NewMemory()
		quick.Put("a", map[string]string{"a": "1"})
		f.resolver.Install(resolve.Store{Name: "other", Provider: quick.Provider()})
		s, err := f.Subscribe(f.t.Context(), caller("app"), []scope.Ref{{Store: "other", Name: "a"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		(&subscription{s, f.t}).want("a=1")
		s.Close()
		for _, s := range stuck {
			s.Close()
		}
		release()
		synctest.Wait()
	})
}

func TestLimits(t *testing.T) {
	bubble(t, watch.Options{MaxPerCaller: 3, MaxPerNode: 5}, minutely, func(f *fixture) {
		refuse := func(app string, names ...string) {
			t.Helper()
			var refs []scope.Ref
			for _, name := range names {
				refs = append(refs, scope.Ref{Store: store, Name: name})
			}
			if _, err := f.Subscribe(f.t.Context(), caller(app), refs, nil); !errors.Is(err, watch.ErrTooMany) {
				t.Errorf("%s %q: %v", app, names, err)
			}
		}
		a := f.subscribe("a", "x", "y", "x")
		a.want("x: not found", "y: not found")
		refuse("a", "x", "z")
		b := f.subscribe("b", "x", "y", "z")
		refuse("c", "x")
		b.Close()
		b.Close()
		f.put("1", "1")
		f.put("2", "2")
		f.put("3", "3")
		all := f.subscribe("c", "")
		if _, err := all.take(); !errors.Is(err, watch.ErrTooMany) { // three names and the listing
			t.Errorf("a listing with too many names: %v", err)
		}
		all.Close()
		a.Close()
		synctest.Wait()
		if n := testutil.CollectAndCount(f.registry, "keywell_watch_updates_total"); n == 0 {
			t.Error("no updates are counted")
		}
		for _, name := range []string{"keywell_watch_subscriptions", "keywell_watch_secrets", "keywell_watch_topics"} {
			if v := gauge(f, name); v != 0 {
				t.Errorf("%s is %v after all have left", name, v)
			}
		}
	})
}

func gauge(f *fixture, name string) float64 {
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	f.t.Errorf("no metric %s", name)
	return -1
}

// TestTakeGivesUp has Take return when its context ends, although the store hangs.
func TestTakeGivesUp(t *testing.T) {
	bubble(t, watch.Options{}, resolve.Settings{CacheTTL: time.Nanosecond, RefreshInterval: time.Nanosecond, RequestTimeout: time.Hour}, func(f *fixture) {
		f.put("a", "1")
		s := f.subscribe("app", "a")
		synctest.Wait()
		release := f.memory.Hang()
		time.Sleep(time.Millisecond) // what was read is too old now
		<-s.Ready()
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
		defer cancel()
		if _, err := s.Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Take: %v", err)
		}
		s.Close()
		release()
	})
}
