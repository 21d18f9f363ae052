package gcp_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gcp/gcptest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// newPods returns a fake in which alice is a service account of the cloud, and bob a federated principal; each may access
// one secret.
func newPods(t *testing.T) (*gcptest.Server, accounts) {
	t.Helper()
	server := gcptest.NewServer(t)
	const email = "alice@my-project.iam.gserviceaccount.com"
	server.ServiceAccount(email, subject("alice"))
	server.Allow(email, "*", "of-alice")
	server.Allow(gcptest.Principal(subject("bob")), "*", "of-bob")
	server.Put("of-alice", "c4n4ry-alice")
	server.Put("of-bob", "c4n4ry-bob")
	return server, accounts{"shop/alice": email}
}

func openAsPod(t *testing.T, server *gcptest.Server, emails providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	m := map[string]string{
		"projectID": gcptest.Project, "endpoint": server.URL, "identity": "pod", "workloadIdentityProvider": gcptest.Provider,
		"stsEndpoint": server.Login, "iamCredentialsEndpoint": server.Login,
	}
	for name, value := range more {
		m[name] = value
	}
	cfg := config(m)
	cfg.ServiceAccounts = emails
	return open(t, cfg)
}

// TestEachPodIsItself: two pods, two identities, and never each other's secret.
func TestEachPodIsItself(t *testing.T) {
	server, emails := newPods(t)
	p := openAsPod(t, server, emails, nil)
	for range 2 {
		want(t, p, as(server, "alice", "of-alice"), "c4n4ry-alice")
		want(t, p, as(server, "bob", "of-bob"), "c4n4ry-bob")
		wantKind(t, p, as(server, "alice", "of-bob"), providers.Denied, "IAM does not allow it")
		wantKind(t, p, as(server, "bob", "of-alice"), providers.Denied, "IAM does not allow it")
	}
	if n, m := len(server.Calls("sts")), len(server.Calls("impersonate")); n != 2 || m != 1 {
		t.Errorf("%d exchanges and %d impersonations, want 2 and 1", n, m)
	}
	if _, _, err := fetch(t, p, providers.Query{Name: "of-alice"}); !errors.Is(err, providers.ErrNoTokens) {
		t.Errorf("on behalf of nobody: %v", err)
	}
}

func TestOneExchangeForAServiceAccount(t *testing.T) {
	server, emails := newPods(t)
	p := openAsPod(t, server, emails, nil)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			q := as(server, "alice", "of-alice")
			q.Caller.Pod, q.Caller.PodUID = fmt.Sprint("alice-", i), fmt.Sprint("uid-", i)
			want(t, p, q, "c4n4ry-alice")
		})
	}
	all.Wait()
	if n := len(server.Calls("sts")); n != 1 {
		t.Errorf("%d exchanges for 20 pods of one service account", n)
	}
	server.Revoke()
	wantKind(t, p, as(server, "alice", "of-alice"), providers.Denied, "not accepted")
	want(t, p, as(server, "alice", "of-alice"), "c4n4ry-alice")
}

func TestIdentities(t *testing.T) {
	server, emails := newPods(t)
	manifest := map[string]string{"serviceAccountEmail": emails["shop/alice"]}
	want(t, openAsPod(t, server, nil, manifest), as(server, "alice", "of-alice"), "c4n4ry-alice")
	wantKind(t, openAsPod(t, server, nil, manifest), as(server, "bob", "of-bob"), providers.Denied, "refuses it (403)")
	wantKind(t, openAsPod(t, server, emails, nil), server.Issuer.Query("of-bob", "shop", "bob", "vault"), providers.Invalid, "no token for audience")
	other := gcptest.NewServer(t) // whose issuer is not trusted
	wantKind(t, openAsPod(t, server, emails, nil), as(other, "bob", "of-bob"), providers.Denied, "refuses it (400)")

	const gke = "identitynamespace:my-project.svc.id.goog:https://container.googleapis.com/v1/projects/my-project/locations/l/clusters/c"
	q := server.Issuer.Query("of-bob", "shop", "bob", "my-project.svc.id.goog")
	_, _, err := fetch(t, openAsPod(t, server, nil, map[string]string{"workloadIdentityProvider": gke}), q)
	if providers.KindOf(err) != providers.Denied || strings.Contains(err.Error(), "audience") || server.Calls("sts")[len(server.Calls("sts"))-1].Name != gke {
		t.Errorf("on GKE: %v, after %v", err, server.Calls("sts"))
	}
}

// TestPodsThroughTheCache reads through the resolver, whose cache must not lend one pod's answers to the other.
func TestPodsThroughTheCache(t *testing.T) {
	server, emails := newPods(t)
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "gcp", Provider: openAsPod(t, server, emails, nil), Settings: resolve.Settings{PerIdentity: true}})
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "gcp"}}})
	if err != nil {
		t.Fatal(err)
	}
	read := func(account, name string) (resolve.Result, error) {
		q := as(server, account, name)
		id := scope.Identity{Namespace: "shop", ServiceAccount: account, Pod: q.Caller.Pod, PodUID: q.Caller.PodUID}
		grant, err := policy.Authorize(id, scope.Ref{Store: "gcp", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return r.Resolve(t.Context(), resolve.Request{Grant: grant, Tokens: q.Tokens, Origin: "api"})
	}
	for range 3 {
		for _, account := range []string{"alice", "bob"} {
			if res, err := read(account, "of-"+account); err != nil || string(res.Fields["of-"+account].Reveal()) != "c4n4ry-"+account {
				t.Errorf("%s: %v", account, err)
			}
		}
		if _, err := read("bob", "of-alice"); providers.KindOf(err) != providers.Denied {
			t.Errorf("bob read alice's secret, or: %v", err)
		}
	}
	if n := len(server.Calls("AccessSecretVersion")); n != 3 {
		t.Errorf("%d reads, want one of each secret and one refused", n)
	}
}
