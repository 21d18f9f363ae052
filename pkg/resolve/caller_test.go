package resolve_test

import (
	"testing"

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
