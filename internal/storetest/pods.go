package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// Pods is a store that is read as the pod, with pods of two service accounts in namespace shop: alice and bob. Each may read
// one secret, "of-alice" or "of-bob", which has one field of that name with the value "c4n4ry-alice" or "c4n4ry-bob".
type Pods struct {
	Provider  providers.Provider
	Issuer    *issuertest.Issuer
	Audience  string
	Denied    string         // what the error says if one reads the other's secret
	Exchanges func() int     // tokens that were exchanged so far
	Reads     func() int     // values that were asked for so far, refused ones too
	Revoke    func()         // makes all that tokens were exchanged for invalid
	Revoked   providers.Kind // of the read that finds it out; zero: it exchanges again, and succeeds
	Says      string         // what the error of that kind says
	// Faults make later exchanges fail with a kind.
	Faults map[providers.Kind]func()
}

// As returns a query by a pod of one of the service accounts.
func (p Pods) As(account, name string) providers.Query {
	return p.Issuer.Query(name, "shop", account, p.Audience)
}

// Subject returns the subject of a service account's tokens.
func Subject(account string) string { return issuertest.Subject("shop", account) }

// RunPods checks that each pod is itself, to the store and to the cache, that a service account costs one exchange whatever
// the number of its pods, and that what the store does not accept any more is replaced. Each case has a store of its own.
func RunPods(t *testing.T, newPods func(*testing.T) Pods) {
	for name, check := range map[string]func(*testing.T, Pods){
		"each pod is itself":                 eachIsItself,
		"one exchange for a service account": oneExchange,
		"through the cache":                  throughTheCache,
		"revoked credentials are replaced":   revoked,
		"only for its audience":              onlyForItsAudience,
		"failing exchanges":                  failingExchanges,
	} {
		t.Run(name, func(t *testing.T) { check(t, newPods(t)) })
	}
}

func eachIsItself(t *testing.T, p Pods) {
	for range 2 {
		Want(t, p.Provider, p.As("alice", "of-alice"), "c4n4ry-alice")
		Want(t, p.Provider, p.As("bob", "of-bob"), "c4n4ry-bob")
		WantKind(t, p.Provider, p.As("alice", "of-bob"), providers.Denied, p.Denied)
		WantKind(t, p.Provider, p.As("bob", "of-alice"), providers.Denied, p.Denied)
	}
	if n := p.Exchanges(); n != 2 {
		t.Errorf("%d exchanges for two service accounts", n)
	}
	if _, _, err := Fetch(t, p.Provider, providers.Query{Name: "of-alice"}); !errors.Is(err, providers.ErrNoTokens) {
		t.Errorf("on behalf of nobody: %v", err)
	}
}

func oneExchange(t *testing.T, p Pods) {
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			q := p.As("alice", "of-alice")
			q.Caller.Pod, q.Caller.PodUID = fmt.Sprint("alice-", i), fmt.Sprint("uid-", i)
			Want(t, p.Provider, q, "c4n4ry-alice")
		})
	}
	all.Wait()
	if n := p.Exchanges(); n != 1 {
		t.Errorf("%d exchanges for 20 pods of one service account", n)
	}
}

// revoked reads again after the store said that it does not take the credentials any more: the resolver retries a read
// like that, unless it is denied.
func revoked(t *testing.T, p Pods) {
	Want(t, p.Provider, p.As("alice", "of-alice"), "c4n4ry-alice")
	p.Revoke()
	if p.Revoked != providers.Unknown {
		WantKind(t, p.Provider, p.As("alice", "of-alice"), p.Revoked, p.Says)
	}
	Want(t, p.Provider, p.As("alice", "of-alice"), "c4n4ry-alice")
	if n := p.Exchanges(); n != 2 {
		t.Errorf("%d exchanges, want one more", n)
	}
}

func failingExchanges(t *testing.T, p Pods) {
	for kind, fail := range p.Faults {
		fail()
		WantKind(t, p.Provider, p.As("alice", "of-alice"), kind, "")
	}
}

func onlyForItsAudience(t *testing.T, p Pods) {
	WantKind(t, p.Provider, p.Issuer.Query("of-bob", "shop", "bob", "vault"), providers.Invalid, "no token for audience")
	other := issuertest.New() // whom the store does not trust
	WantKind(t, p.Provider, other.Query("of-bob", "shop", "bob", p.Audience), providers.Denied, "")
}

// throughTheCache reads through the resolver, whose cache must not lend one pod's answers to the other.
func throughTheCache(t *testing.T, p Pods) {
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "store", Provider: p.Provider, Settings: resolve.Settings{PerIdentity: true}})
	for range 3 {
		for _, account := range []string{"alice", "bob"} {
			res, err := p.resolve(t, r, account, "of-"+account)
			if err != nil || string(res.Fields["of-"+account].Reveal()) != "c4n4ry-"+account {
				t.Errorf("%s: %v", account, err)
			}
		}
		if _, err := p.resolve(t, r, "bob", "of-alice"); providers.KindOf(err) != providers.Denied {
			t.Errorf("bob read alice's secret, or: %v", err)
		}
	}
	if n := p.Reads(); n != 3 {
		t.Errorf("%d reads, want one of each secret and one refused", n)
	}
}

// resolve reads as a pod that every policy allows.
func (p Pods) resolve(t *testing.T, r *resolve.Resolver, account, name string) (resolve.Result, error) {
	t.Helper()
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "store"}}})
	if err != nil {
		t.Fatal(err)
	}
	q := p.As(account, name)
	id := scope.Identity{Namespace: "shop", ServiceAccount: account, Pod: q.Caller.Pod, PodUID: q.Caller.PodUID}
	grant, err := policy.Authorize(id, scope.Ref{Store: "store", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return r.Resolve(t.Context(), resolve.Request{Grant: grant, Tokens: q.Tokens, Origin: "api"})
}
