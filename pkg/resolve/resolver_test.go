package resolve_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

func TestOnlyTheRightGrantOpens(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	ctx := t.Context()
	for name, req := range map[string]resolve.Request{"zero": {}, "listing": list(t)} {
		if _, err := f.Resolve(ctx, req); !errors.Is(err, resolve.ErrNotGranted) {
			t.Errorf("Resolve with %s grant: %v", name, err)
		}
	}
	for name, req := range map[string]resolve.Request{"zero": {}, "reading": read(t, "a")} {
		if _, err := f.List(ctx, req); !errors.Is(err, resolve.ErrNotGranted) {
			t.Errorf("List with %s grant: %v", name, err)
		}
	}
	if n := f.store.Fetches("") + f.store.Lists(); n != 0 {
		t.Errorf("the store was asked %d times without a grant", n)
	}
}

func TestRequestsThatCannotWork(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.Install(resolve.Store{Name: "other", Provider: fetchFunc(nil)})
	listOther, err := policy(t).AuthorizeList(alice, scope.Ref{Store: "other"})
	if err != nil {
		t.Fatal(err)
	}
	noName := readAs(t, alice, scope.Ref{Store: "s"})
	f.wantKind(noName, providers.Invalid, 0)
	req := resolve.Request{Grant: listOther}
	_, err = f.List(t.Context(), req)
	wantError(t, err, req, providers.Invalid)
}

func TestStoreThatIsNotInstalled(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	f.want(read(t, "a"), "1", false, 1)
	f.Remove("s")
	f.Remove("s")
	if err := f.wantKind(read(t, "a"), providers.Unavailable, 1); !errors.Is(err, resolve.ErrStoreClosed) {
		t.Errorf("after Remove: %v", err)
	}
	if _, err := f.List(t.Context(), list(t)); !errors.Is(err, resolve.ErrStoreClosed) {
		t.Errorf("List after Remove: %v", err)
	}
	if f.Epoch("s") != 0 {
		t.Error("a store that is not installed has an epoch")
	}
	f.Invalidate("s", "a") // must do nothing
}

func TestOneCallPerSecret(t *testing.T) {
	const readers, secrets = 20, 30
	f := newFixture(t, resolve.Settings{})
	for i := range secrets {
		f.put(fmt.Sprint("secret", i), fmt.Sprint("value", i))
	}
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for i := range secrets {
				res, err := f.Resolve(t.Context(), read(t, fmt.Sprint("secret", i)))
				if got := string(res.Fields["k"].Reveal()); err != nil || got != fmt.Sprint("value", i) {
					t.Errorf("secret%d: %q, %v", i, got, err)
				}
				if _, err := f.List(t.Context(), list(t)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := f.store.Fetches(""); got != secrets {
		t.Errorf("%d readers of %d secrets made %d calls", readers, secrets, got)
	}
	if got := f.store.Lists(); got != 1 {
		t.Errorf("%d listings made %d calls", readers*secrets, got)
	}
}

func TestSelectorsReachTheStoreAndTheKey(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "old")
	f.put("a", "new")
	f.store.PutPayload("ns", "a", one("elsewhere"))
	tests := []struct {
		ref  scope.Ref
		want string
	}{
		{scope.Ref{Store: "s", Name: "a"}, "new"},
		{scope.Ref{Store: "s", Name: "a", Version: "1"}, "old"},
		{scope.Ref{Store: "s", Name: "a", Stage: providertest.StagePrevious}, "old"},
		{scope.Ref{Store: "s", Name: "a", Namespace: "ns"}, "elsewhere"},
	}
	for i, tt := range tests {
		f.want(readAs(t, alice, tt.ref), tt.want, false, i+1)
	}
	for _, tt := range tests { // now from the cache
		f.want(readAs(t, alice, tt.ref), tt.want, false, len(tests))
	}

	req := read(t, "a")
	req.Metadata = map[string]string{"page": "1"}
	f.want(req, "new", false, 5) // a driver may heed metadata, so the answer is one of its own
	f.want(req, "new", false, 5)
	f.want(read(t, "a"), "new", false, 5)
	req = read(t, "b")
	req.Metadata = map[string]string{"page": "1"}
	f.wantKind(req, providers.NotFound, 1)
	queries := f.store.Queries()
	if diff := cmp.Diff(req.Metadata, queries[len(queries)-1].Metadata); diff != "" {
		t.Errorf("metadata of the query: %s", diff)
	}
}

// tokens is a TokenSource that is never asked.
type tokens struct{ of string }

func (tokens) Token(context.Context, string) (secret.Value, time.Time, error) {
	return secret.Value{}, time.Time{}, errors.New("not in this test")
}

func TestPerIdentity(t *testing.T) {
	f := newFixture(t, resolve.Settings{PerIdentity: true})
	f.put("a", "1")
	ref := scope.Ref{Store: "s", Name: "a"}
	for i, id := range []scope.Identity{
		alice,
		{Namespace: "shop", ServiceAccount: "bob"},
		{Namespace: "bank", ServiceAccount: "alice"},
	} {
		req := readAs(t, id, ref)
		req.Tokens = tokens{of: id.Namespace + "/" + id.ServiceAccount}
		f.want(req, "1", false, i+1)
		f.want(req, "1", false, i+1)
		if got := f.store.Queries()[i].Tokens; got != req.Tokens {
			t.Errorf("the store was called with the tokens %v, want %v", got, req.Tokens)
		}
	}
	otherPod := alice
	otherPod.Pod, otherPod.PodUID, otherPod.AppID = "alice-2", "uid-2", "batch"
	f.want(readAs(t, otherPod, ref), "1", false, 3) // pods of one service account share

	f.wantKind(readAs(t, scope.Identity{AppID: "web"}, ref), providers.Invalid, 3)
	reference, err := policy(t).AuthorizeReference(scope.Store{}, ref)
	if err != nil {
		t.Fatal(err)
	}
	f.wantKind(resolve.Request{Grant: reference}, providers.Invalid, 3)
}

func TestTokensStayOutOfSharedAnswers(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	req := read(t, "a")
	req.Tokens = tokens{}
	f.want(req, "1", false, 1)
	if got := f.store.Queries()[0].Tokens; got != nil {
		t.Error("a pod's tokens were used for an answer that other pods get")
	}
}

func TestReferenceReads(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	g, err := policy(t).AuthorizeReference(scope.Store{}, scope.Ref{Store: "s", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	f.want(resolve.Request{Grant: g, Origin: "reference"}, "1", false, 1)
}

func TestInstallReplaces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var changed changes
		f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{})
		f.put("a", "old")
		f.want(read(t, "a"), "old", false, 1)
		release := f.store.Hang()
		slow := start(t.Context(), f.Resolver, read(t, "b"))
		f.put("b", "slow")
		synctest.Wait()
		before := f.Epoch("s")

		next := providertest.NewMemory()
		next.Put("a", map[string]string{"k": "new"})
		f.Install(resolve.Store{Name: "s", Provider: next.Provider()})
		if f.Epoch("s") <= before {
			t.Error("the new installation has no later epoch")
		}
		if diff := cmp.Diff([]string{"s/", "s/"}, changed.take()); diff != "" {
			t.Error(diff)
		}
		res, err := f.Resolve(t.Context(), read(t, "a"))
		if got := string(res.Fields["k"].Reveal()); err != nil || got != "new" {
			t.Errorf("after Install: %q, %v", got, err)
		}

		synctest.Wait()
		if f.store.Open() != 1 {
			t.Error("the old provider was closed under a call")
		}
		release()
		if got := <-slow; got.err != nil || got.value() != "slow" {
			t.Errorf("the call under way: %q, %v", got.value(), got.err)
		}
		synctest.Wait()
		if f.store.Open() != 0 {
			t.Error("the old provider is still open after its last call")
		}
		f.Remove("s")
		synctest.Wait()
		if next.Open() != 0 {
			t.Error("a removed provider is still open")
		}
	})
}

func TestInstallWhileTheOldProviderHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{RequestTimeout: 3 * time.Second})
		release := f.store.Hang()
		defer release()
		slow := start(t.Context(), f.Resolver, read(t, "a"))
		synctest.Wait()
		f.Remove("s")
		advance(2 * time.Second)
		if f.store.Open() != 1 {
			t.Error("closed before the deadline")
		}
		advance(2 * time.Second)
		if f.store.Open() != 0 {
			t.Error("not closed after the deadline")
		}
		if got := <-slow; providers.KindOf(got.err) != providers.Unavailable {
			t.Errorf("the call under way: %v", got.err)
		}
	})
}

func TestClose(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.Close()
	if f.store.Open() != 0 {
		t.Error("Close left a provider open")
	}
	if err := f.wantKind(read(t, "a"), providers.Unavailable, 0); !errors.Is(err, resolve.ErrStoreClosed) {
		t.Errorf("after Close: %v", err)
	}
	f.Install(resolve.Store{Name: "s", Provider: f.store.Provider()})
	if f.store.Open() != 0 {
		t.Error("Install after Close left the provider open")
	}
	f.Close() // again
}

// Stores come and go while they are read: every read gets the answer of one installation or that the store is closed.
func TestInstallUnderLoad(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	req := read(t, "a")
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				res, err := f.Resolve(t.Context(), req)
				if err != nil || string(res.Fields["k"].Reveal()) != "1" {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	for range 400 {
		f.Install(resolve.Store{Name: "s", Provider: f.store.Provider()})
	}
	close(done)
	readers.Wait()
	f.Close()
	if got := f.store.Open(); got != 0 {
		t.Errorf("%d providers are still open", got)
	}
}
