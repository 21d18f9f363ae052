package resolve_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// TestCaller checks that a store learns who asks where it decides about pods, and nowhere else.
func TestCaller(t *testing.T) {
	pod := providers.Caller{Namespace: "shop", ServiceAccount: "alice", Pod: "alice-1", PodUID: "uid-1"}
	for perIdentity, want := range map[bool]providers.Caller{true: pod, false: {}} {
		f := newFixture(t, resolve.Settings{PerIdentity: perIdentity})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		if diff := cmp.Diff(want, f.store.Queries()[0].Caller); diff != "" {
			t.Errorf("PerIdentity %t, mismatch (-want +got):\n%s", perIdentity, diff)
		}
	}
}

// TestTokenOfOneReader: that one reader of a service account has no token, as after a restart of the agent, or one that is
// not good any more, as of a pod that ends, is no matter of others, and says nothing about what is cached.
func TestTokenOfOneReader(t *testing.T) {
	for name, failure := range map[string]*providers.Error{
		"none":     providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens),
		"not good": providers.Errorf(providers.Denied, "%w", providers.ErrBadToken),
	} {
		t.Run(name, func(t *testing.T) { bubble(t, func(t *testing.T) { testTokenOfOneReader(t, failure) }) })
	}
}

func testTokenOfOneReader(t *testing.T, failure *providers.Error) {
	var asked atomic.Int64
	f := newFixture(t, resolve.Settings{})
	f.Install(resolve.Store{Name: "s", Settings: resolve.Settings{PerIdentity: true}, Provider: fetchFunc(func(_ context.Context, q providers.Query) (providers.Payload, error) {
		asked.Add(1)
		<-time.After(time.Second)
		if q.Tokens != (tokens{of: "good"}) {
			return providers.Payload{}, failure
		}
		return one("1"), nil
	})})
	bad, good := read(t, "a"), read(t, "a")
	good.Tokens = tokens{of: "good"}

	first := start(t.Context(), f.Resolver, bad)
	synctest.Wait()
	joined := []<-chan outcome{start(t.Context(), f.Resolver, good), start(t.Context(), f.Resolver, good)}
	if got := <-first; !errors.Is(got.err, failure.Err) {
		t.Errorf("the reader with a bad token got %q, %v", got.value(), got.err)
	}
	for _, reader := range joined {
		if got := <-reader; got.err != nil || got.value() != "1" {
			t.Errorf("a reader with a good token got %q, %v", got.value(), got.err)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the store was asked %d times, want 2", n)
	}

	fresh := bad
	fresh.Fresh = true
	if _, err := f.Resolve(t.Context(), fresh); !errors.Is(err, failure.Err) {
		t.Errorf("a fresh read with a bad token: %v", err)
	}
	if res, err := f.Resolve(t.Context(), good); err != nil || res.Stale || asked.Load() != 3 {
		t.Errorf("what was cached is gone: %v, stale %t, the store was asked %d times", err, res.Stale, asked.Load())
	}
}

// TestStoreThatIsStillOpenAsTheAgent: where the policy leaves the decision to the store, the agent's own rights must not
// take its place.
func TestStoreThatIsStillOpenAsTheAgent(t *testing.T) {
	p, err := scope.NewPolicy(scope.Rules{Closed: true, Stores: []scope.Store{{Name: "s", PodAuthorized: true}}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := p.Authorize(alice, scope.Ref{Store: "s", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	lists, err := p.AuthorizeList(alice, scope.Ref{Store: "s"})
	if err != nil {
		t.Fatal(err)
	}
	req := resolve.Request{Grant: g, Origin: "api"}
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	f.want(read(t, "a"), "1", false, 1) // cached from here on
	f.wantKind(req, providers.Unavailable, 1)
	if _, ok := f.Cached(t.Context(), req); ok {
		t.Error("the agent's answer was given to a pod")
	}
	if _, err := f.List(t.Context(), resolve.Request{Grant: lists}); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("List: %v", err)
	}
	f.Install(resolve.Store{Name: "s", Provider: f.store.Provider(), Settings: resolve.Settings{PerIdentity: true}})
	f.want(req, "1", false, 2)
}

// TestPerPod: where answers depend on the pod, another pod of the service account does not get them, nor one of its name.
func TestPerPod(t *testing.T) {
	for perPod, want := range map[bool]int{true: 3, false: 1} {
		f := newFixture(t, resolve.Settings{PerIdentity: true, PerPod: perPod})
		f.put("a", "1")
		policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "s"}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range []struct{ name, uid string }{{"one", "1"}, {"two", "2"}, {"two", "3"}, {"one", "1"}} {
			grant, err := policy.Authorize(scope.Identity{Namespace: "shop", ServiceAccount: "app", Pod: pod.name, PodUID: pod.uid}, scope.Ref{Store: "s", Name: "a"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Resolve(t.Context(), resolve.Request{Grant: grant}); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(f.store.Queries()); got != want {
			t.Errorf("PerPod %t: %d reads, want %d", perPod, got, want)
		}
	}
}
