package kubernetes_test

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
)

// patience is how long a test waits for what must happen; settled, for what must not.
const (
	patience = 10 * time.Second
	settled  = 100 * time.Millisecond
)

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.After(patience); !done(); {
		select {
		case <-time.After(time.Millisecond):
		case <-end:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// watched makes the reads, runs Notify and returns what it reports, when as many watches have begun as said.
func watched(t *testing.T, p providers.Provider, server *kubetest.Server, watches int, reads ...providers.Query) <-chan string {
	t.Helper()
	for _, q := range reads {
		if _, err := p.Fetch(t.Context(), q); err != nil && providers.KindOf(err) != providers.NotFound {
			t.Fatal(err)
		}
	}
	before := server.Watches()
	changed, done := make(chan string, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- p.(providers.Notifier).Notify(ctx, func(name string) { changed <- name }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Notify: %v", err)
		}
	})
	eventually(t, "the watches have begun", func() bool { return server.Watches() >= before+watches })
	return changed
}

// expect fails unless exactly name is reported next.
func expect(t *testing.T, changed <-chan string, name string) {
	t.Helper()
	select {
	case got := <-changed:
		if got != name {
			t.Errorf("%q was reported, want %q", got, name)
		}
	case <-time.After(patience):
		t.Fatalf("%q was not reported", name)
	}
}

func expectNothing(t *testing.T, changed <-chan string) {
	t.Helper()
	select {
	case got := <-changed:
		t.Errorf("%q was reported, want nothing", got)
	case <-time.After(settled):
	}
}

// selectors returns the namespaces and field selectors that were watched or tried, sorted.
func selectors(server *kubetest.Server) []string {
	var all []string
	for _, r := range server.Requests("watch", "secrets") {
		all = append(all, r.Namespace+" "+cmp.Or(r.Selector, "all"))
	}
	slices.Sort(all)
	return all
}

// TestOneWatchPerServiceAccount reads several secrets as two pods of one service account, as another service account
// and in another namespace.
func TestOneWatchPerServiceAccount(t *testing.T) {
	p, server := newStore(t)
	server.Allow(aliceToken, everything)
	server.Allow("alice-2", everything)
	server.Allow("bob", everything)
	second, bob, elsewhere := query("c"), query("a"), query("a")
	second.Tokens, second.Caller.Pod, second.Caller.PodUID = token("alice-2"), "alice-2", "uid-2"
	bob.Tokens, bob.Caller.ServiceAccount = token("bob"), "bob"
	elsewhere.Namespace = "bank"
	changed := watched(t, p, server, 3, query("a"), query("b"), second, bob, elsewhere)
	put(server, "bank", "a", nil)
	expect(t, changed, "a")
	expectNothing(t, changed)
	if diff := gocmp.Diff([]string{"bank all", "shop all", "shop all"}, selectors(server)); diff != "" {
		t.Errorf("watches (-want +got):\n%s", diff)
	}
}

// TestWatchOfSingleSecrets gives rights by resourceNames: to watch a and b, to get c.
func TestWatchOfSingleSecrets(t *testing.T) {
	p, server := newStore(t)
	server.Allow(aliceToken,
		kubetest.Rule{Verb: "get", Resource: "secrets", Namespace: "shop"},
		kubetest.Rule{Verb: "watch", Resource: "secrets", Namespace: "shop", Name: "a"},
		kubetest.Rule{Verb: "watch", Resource: "secrets", Namespace: "shop", Name: "b"})
	put(server, "shop", "c", nil)
	changed := watched(t, p, server, 2, query("a"), query("b"), query("c"))
	eventually(t, "the fourth try", func() bool { return len(selectors(server)) == 4 })
	put(server, "shop", "c", nil)
	put(server, "shop", "b", nil)
	expect(t, changed, "b")
	for range 3 { // reads do not make it try again what was refused
		if _, err := p.Fetch(t.Context(), query("c")); err != nil {
			t.Error(err)
		}
	}
	expectNothing(t, changed)
	want := []string{"shop all", "shop metadata.name=a", "shop metadata.name=b", "shop metadata.name=c"}
	if diff := gocmp.Diff(want, selectors(server)); diff != "" {
		t.Errorf("watches (-want +got):\n%s", diff)
	}
}

// TestWhatWasReadIsNoNews checks that a watch which finds everything as it was read says nothing: each report costs a
// read per volume.
func TestWhatWasReadIsNoNews(t *testing.T) {
	p, server := newStore(t)
	put(server, "shop", "db", nil)
	put(server, "shop", "never-read", nil)
	changed := watched(t, p, server, 1, query("db"), query("missing"))
	expectNothing(t, changed)
	server.Cut()
	eventually(t, "the watch begins again", func() bool { return server.Watches() == 2 })
	expectNothing(t, changed)
}

// TestChangesWhileNobodyWatches changes secrets between a read and the watch, and while a watch is broken, on API servers
// with streaming lists and without.
func TestChangesWhileNobodyWatches(t *testing.T) {
	for name, plain := range map[string]bool{"streaming lists": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, server := newStore(t)
			server.PlainWatches = plain
			bookmark := func() {
				if plain {
					server.Bookmark("secrets")
				}
			}
			for _, name := range []string{"changes", "goes", "stays"} {
				put(server, "shop", name, nil)
				if _, err := p.Fetch(t.Context(), query(name)); err != nil {
					t.Fatal(err)
				}
			}
			put(server, "shop", "changes", nil)
			changed := watched(t, p, server, 1)
			expect(t, changed, "changes")

			server.Cut()
			server.Delete("secrets", "shop", "goes")
			if _, err := p.Fetch(t.Context(), query("changes")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the watch begins again", func() bool { return server.Watches() == 2 })
			bookmark()
			expect(t, changed, "goes")
			expectNothing(t, changed)
		})
	}
}

// TestBadTokenEndsWatch checks that a watch is not begun again with a token that is not accepted, and that the next
// read's token brings it back.
func TestBadTokenEndsWatch(t *testing.T) {
	p, server := newStore(t)
	put(server, "shop", "db", nil)
	changed := watched(t, p, server, 1, query("db"))
	server.Allow(aliceToken) // its pod is gone
	server.Cut()
	eventually(t, "the watch is refused", func() bool { return len(server.Requests("watch", "")) == 2 })
	server.Allow("younger", kubetest.Rule{Resource: "secrets"})
	q := query("db")
	q.Tokens = token("younger")
	if _, err := p.Fetch(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch begins again", func() bool { return server.Watches() == 2 })
	put(server, "shop", "db", nil)
	expect(t, changed, "db")
}
