package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/exchange"
	"github.com/keywell/keywell/pkg/secret"
)

// tokens is a source with one token.
type tokens struct{ err error }

func (t tokens) Token(context.Context, string) (secret.Value, time.Time, error) {
	return secret.FromString("t0ken"), time.Now().Add(time.Hour), t.err
}

func by(account, pod string) providers.Query {
	return providers.Query{Tokens: tokens{}, Caller: providers.Caller{Namespace: "shop", ServiceAccount: account, Pod: pod}}
}

// counter numbers the exchanges that were made; what each gives is valid for life.
type counter struct {
	calls atomic.Int64
	life  time.Duration
	takes time.Duration
	fails error
}

func (c *counter) exchange(_ context.Context, q providers.Query) (string, time.Time, error) {
	n := c.calls.Add(1)
	time.Sleep(c.takes)
	return fmt.Sprintf("%s-%d", q.Caller.ServiceAccount, n), time.Now().Add(c.life), c.fails
}

func want(t *testing.T, c *exchange.Cache[string], q providers.Query, credentials string) {
	t.Helper()
	got, err := c.Get(t.Context(), q)
	if got != credentials || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, credentials)
	}
}

// TestOneExchangeForAllPods asks for 50 pods of one service account at once, and for a pod of another.
func TestOneExchangeForAllPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &counter{life: time.Hour, takes: time.Second}
		c := exchange.New(n.exchange)
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() { want(t, c, by("alice", fmt.Sprint(i)), "alice-1") })
		}
		all.Wait()
		want(t, c, by("bob", "b"), "bob-2")
		want(t, c, by("alice", "later"), "alice-1")
		if n.calls.Load() != 2 {
			t.Errorf("%d exchanges, want 2", n.calls.Load())
		}
	})
}

func TestRenewedBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &counter{life: time.Hour}
		c := exchange.New(n.exchange)
		want(t, c, by("alice", "a"), "alice-1")
		time.Sleep(50*time.Minute - 1)
		want(t, c, by("alice", "a"), "alice-1")
		time.Sleep(time.Nanosecond)
		want(t, c, by("alice", "a"), "alice-2")
		want(t, c, by("alice", "a"), "alice-2")

		n.life = 5 * time.Minute
		want(t, c, by("bob", "b"), "bob-3")
		time.Sleep(4 * time.Minute)
		want(t, c, by("bob", "b"), "bob-4")
	})
}

// TestValidCredentialsOutliveFailures fails the renewal: what is valid is used, with a pause between attempts, to its end.
func TestValidCredentialsOutliveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &counter{life: time.Hour}
		c := exchange.New(n.exchange)
		want(t, c, by("alice", "a"), "alice-1")
		n.fails = providers.Errorf(providers.Unavailable, "down")
		time.Sleep(50 * time.Minute)
		for range 3 {
			want(t, c, by("alice", "a"), "alice-1")
		}
		if n.calls.Load() != 2 {
			t.Errorf("%d exchanges, want 2: a failure is followed by a pause", n.calls.Load())
		}
		time.Sleep(10 * time.Minute)
		if _, err := c.Get(t.Context(), by("alice", "a")); providers.KindOf(err) != providers.Unavailable {
			t.Errorf("with nothing valid: %v", err)
		}
		n.fails = nil
		want(t, c, by("alice", "a"), "alice-4")
	})
}

func TestDrop(t *testing.T) {
	n := &counter{life: time.Hour}
	c := exchange.New(n.exchange)
	want(t, c, by("alice", "a"), "alice-1")
	want(t, c, by("bob", "b"), "bob-2")
	c.Drop(by("alice", "other"), "alice-1")
	want(t, c, by("alice", "a"), "alice-3")
	c.Drop(by("alice", "late"), "alice-1") // was refused with what is replaced by now
	want(t, c, by("alice", "a"), "alice-3")
	want(t, c, by("bob", "b"), "bob-2")
}

// TestReaderGivesUp ends one reader's context: it returns at once, and the exchange goes on for the others.
func TestReaderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &counter{life: time.Hour, takes: time.Second}
		c := exchange.New(n.exchange)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Get(ctx, by("alice", "a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline's", err)
		}
		want(t, c, by("alice", "a"), "alice-1")
	})
}

func TestRefusals(t *testing.T) {
	c := exchange.New((&counter{life: -1}).exchange)
	if _, err := c.Get(t.Context(), by("alice", "a")); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("expired credentials: %v", err)
	}
	if _, err := c.Get(t.Context(), providers.Query{}); !errors.Is(err, providers.ErrNoTokens) || providers.KindOf(err) != providers.Invalid {
		t.Errorf("no tokens: %v", err)
	}
	c = exchange.New(func(context.Context, providers.Query) (string, time.Time, error) { panic("t0ken") })
	if _, err := c.Get(t.Context(), by("alice", "a")); err == nil {
		t.Error("a panic became no error")
	}
}

func TestToken(t *testing.T) {
	q := by("alice", "a")
	if token, err := exchange.Token(t.Context(), q, "aud"); token != "t0ken" || err != nil {
		t.Errorf("got %q, %v", token, err)
	}
	q.Tokens = tokens{providers.Errorf(providers.Unavailable, "expired")}
	if _, err := exchange.Token(t.Context(), q, "aud"); providers.KindOf(err) != providers.Denied {
		t.Errorf("an expired token: %v, want Denied", err)
	}
	if _, err := exchange.Token(t.Context(), providers.Query{}, "aud"); providers.KindOf(err) != providers.Invalid {
		t.Errorf("no source: %v, want Invalid", err)
	}
}

// TestAgent: without a pod too, and for all pods the same; what is fixed stays, what is shared is replaced when it is dropped.
func TestAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &counter{life: time.Hour}
		shared := exchange.NewShared(func(ctx context.Context, _ providers.Query) (string, time.Time, error) {
			return n.exchange(ctx, by("agent", ""))
		})
		fixed := exchange.Fixed("key")
		for _, q := range []providers.Query{{}, by("alice", "a"), by("bob", "b")} {
			want(t, shared, q, "agent-1")
			want(t, fixed, q, "key")
		}
		shared.Drop(by("bob", "b"), "agent-1")
		want(t, shared, providers.Query{}, "agent-2")
		time.Sleep(50 * time.Minute)
		want(t, shared, providers.Query{}, "agent-3")
		fixed.Drop(providers.Query{}, "key")
		want(t, fixed, providers.Query{}, "key")
	})
}
