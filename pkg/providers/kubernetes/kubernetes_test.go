package kubernetes_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/kubernetes"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// failing is a TokenSource without a token.
type failing providers.Kind

func (k failing) Token(context.Context, string) (secret.Value, time.Time, error) {
	return secret.Value{}, time.Time{}, providers.Errorf(providers.Kind(k), "no token today")
}

func TestErrors(t *testing.T) {
	with := func(change func(*providers.Query)) providers.Query {
		q := query("db")
		change(&q)
		return q
	}
	for name, tt := range map[string]struct {
		query providers.Query
		kind  providers.Kind
		text  string
	}{
		"missing":                   {query("none"), providers.NotFound, `secrets "none" not found`},
		"impossible name":           {query("No/Such"), providers.NotFound, `secrets "No/Such" not found`},
		"version":                   {with(func(q *providers.Query) { q.Version = "7" }), providers.Invalid, "no earlier versions"},
		"stage":                     {with(func(q *providers.Query) { q.Stage = "x" }), providers.Invalid, "no stages"},
		"hostile namespace":         {with(func(q *providers.Query) { q.Namespace = "../kube-system" }), providers.Invalid, "not the name of a namespace"},
		"no pod":                    {with(func(q *providers.Query) { q.Tokens = nil }), providers.Invalid, "brings none"},
		"audience is not asked for": {with(func(q *providers.Query) { q.Tokens = failing(providers.Invalid) }), providers.Invalid, "no token today"},
		"expired before it is sent": {with(func(q *providers.Query) { q.Tokens = failing(providers.Unavailable) }), providers.Denied, "no token today"},
		"not accepted":              {with(func(q *providers.Query) { q.Tokens = token("of-a-deleted-pod") }), providers.Denied, "the pod's token is not accepted by the API server"},
		"no right": {with(func(q *providers.Query) { q.Namespace = "bank" }), providers.Denied,
			`service account shop/alice may not get secrets "db": grant it that verb with a Role and a RoleBinding in namespace "bank"`},
	} {
		t.Run(name, func(t *testing.T) {
			p, server := newStore(t)
			put(server, "shop", "db", map[string]string{"k": "v"})
			put(server, "bank", "db", map[string]string{"k": "v"})
			_, err := p.Fetch(t.Context(), tt.query)
			if providers.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v error %v, want %v with %q", providers.KindOf(err), err, tt.kind, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), aliceToken) {
				t.Error("the error holds a token")
			}
		})
	}
}

func TestServerIsDown(t *testing.T) {
	p, server := newStore(t)
	server.Stop()
	if _, err := p.Fetch(t.Context(), query("db")); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("error %v, want Unavailable", err)
	}
}

func TestListIsDenied(t *testing.T) {
	p, server := newStore(t)
	server.Allow(aliceToken, kubetest.Rule{Verb: "get", Resource: "secrets"})
	_, err := p.(providers.Lister).List(t.Context(), query(""))
	if providers.KindOf(err) != providers.Denied || !strings.Contains(err.Error(), "may not list secrets") {
		t.Errorf("error %v, want Denied", err)
	}
}

// TestPodsTokenAlone checks that whatever is sent carries the pod's token, and that content is sent only to get it.
func TestPodsTokenAlone(t *testing.T) {
	p, server := newStore(t)
	put(server, "shop", "db", map[string]string{"k": "v"})
	_ = watched(t, p, server, 1, query("db"))
	if _, err := p.(providers.Lister).List(t.Context(), query("")); err != nil {
		t.Error(err)
	}
	for _, r := range server.Requests("", "") {
		if r.Token != aliceToken {
			t.Errorf("%s was sent with the token %q", r.Verb, r.Token)
		}
		if metadataOnly := strings.Contains(r.Accept, "PartialObjectMetadata"); metadataOnly == (r.Verb == "get") {
			t.Errorf("%s accepts %q", r.Verb, r.Accept)
		}
	}
	if n := len(server.Requests("watch", "")); n != 1 {
		t.Errorf("%d watches, want 1", n)
	}
}

func TestNamespace(t *testing.T) {
	p, server := newStore(t)
	server.Allow(aliceToken, everything)
	for _, namespace := range []string{"shop", "bank"} {
		put(server, namespace, "db", map[string]string{"in": namespace})
	}
	for asked, want := range map[string]string{"": "shop", "shop": "shop", "bank": "bank"} {
		q := query("db")
		q.Namespace = asked
		got, err := p.Fetch(t.Context(), q)
		if err != nil || string(got.Fields["in"].Reveal()) != want {
			t.Errorf("namespace %q: %v, %v", asked, got.Fields, err)
		}
	}
}

// TestRedirect checks that a token does not follow where a server sends it.
func TestRedirect(t *testing.T) {
	p, server := newStore(t)
	other := kubetest.NewServer(t)
	server.Fail(func(kubetest.Request) *kubetest.Fault {
		return &kubetest.Fault{Code: http.StatusTemporaryRedirect, Header: http.Header{"Location": {other.URL + "/api/v1/namespaces/shop/secrets/db"}}}
	})
	if _, err := p.Fetch(t.Context(), query("db")); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("error %v, want Unavailable", err)
	}
	if got := other.Requests("", ""); len(got) > 0 {
		t.Errorf("the other server was sent %+v", got)
	}
}

func TestOpenOutsideACluster(t *testing.T) {
	for name, path := range map[string]string{"no file": "", "no such file": "/no/such/kubeconfig"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			_, err := kubernetes.Driver().Open(t.Context(), providers.Config{Properties: providers.Properties{"kubeconfigpath": secret.FromString(path)}})
			if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), "kubeconfig") {
				t.Errorf("error %v, want Invalid", err)
			}
		})
	}
}

// TestOneReadForManyPods reads as 50 pods of one service account, and as one of another, through the resolver.
func TestOneReadForManyPods(t *testing.T) {
	p, server := newStore(t)
	server.Allow("t0ken-of-bob", kubetest.Rule{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "other"})
	put(server, "shop", "db", map[string]string{"k": "v"})
	resolver := resolve.New(resolve.Options{})
	t.Cleanup(resolver.Close)
	resolver.Install(resolve.Store{Name: "kubernetes", Provider: p, Settings: resolve.Settings{PerIdentity: true}})
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "kubernetes"}}})
	if err != nil {
		t.Fatal(err)
	}
	read := func(account, pod string, tokens providers.TokenSource) error {
		grant, err := policy.Authorize(
			scope.Identity{Namespace: "shop", ServiceAccount: account, Pod: pod, PodUID: pod, AppID: pod}, scope.Ref{Store: "kubernetes", Name: "db"})
		if err != nil {
			return err
		}
		_, err = resolver.Resolve(t.Context(), resolve.Request{Grant: grant, Tokens: tokens})
		return err
	}
	var pods sync.WaitGroup
	for i := range 50 {
		pods.Go(func() {
			if err := read("alice", fmt.Sprint("alice-", i), token(aliceToken)); err != nil {
				t.Error(err)
			}
		})
	}
	pods.Wait()
	if n := len(server.Requests("get", "secrets")); n != 1 {
		t.Errorf("50 pods cost %d reads, want 1", n)
	}
	if err := read("bob", "bob-1", token("t0ken-of-bob")); providers.KindOf(err) != providers.Denied {
		t.Errorf("another service account got alice's answer: %v", err)
	}
	if diff := cmp.Diff(2, len(server.Requests("get", "secrets"))); diff != "" {
		t.Errorf("reads (-want +got):\n%s", diff)
	}
}
