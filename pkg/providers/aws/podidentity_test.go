package aws_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// newAssociations returns a fake in which EKS gives the service accounts alice and bob a role each.
func newAssociations(t *testing.T) *awstest.Server {
	t.Helper()
	server, roles := newPods(t)
	for _, account := range []string{"alice", "bob"} {
		server.Role(account, awstest.PodIdentityService)
		server.Associate(subject(account), roles["shop/"+account])
	}
	return server
}

func openPodIdentity(t *testing.T, kind string, server *awstest.Server) providers.Provider {
	t.Helper()
	return openAsPod(t, kind, server, nil, map[string]string{"podIdentity": "true", "podIdentityEndpoint": server.PodIdentityURL()})
}

// asAssociated is a query with a token for EKS.
func asAssociated(server *awstest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, awstest.PodIdentityService)
}

// TestPodIdentity: two pods, two associations, never each other's secret, and one exchange for 20 pods.
func TestPodIdentity(t *testing.T) {
	for _, kind := range []string{aws.SecretsManagerType, aws.ParameterStoreType} {
		server := newAssociations(t)
		p := openPodIdentity(t, kind, server)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				q := asAssociated(server, "alice", "of-alice")
				q.Caller.Pod, q.Caller.PodUID = fmt.Sprint("alice-", i), fmt.Sprint("uid-", i)
				want(t, p, q, "of-alice", "c4n4ry-alice")
			})
		}
		all.Wait()
		want(t, p, asAssociated(server, "bob", "of-bob"), "of-bob", "c4n4ry-bob")
		wantKind(t, p, asAssociated(server, "alice", "of-bob"), providers.Denied, "AccessDeniedException")
		wantKind(t, p, asAssociated(server, "bob", "of-alice"), providers.Denied, "AccessDeniedException")
		if n := len(server.Calls("eks-auth:AssumeRoleForPodIdentity")); n != 2 {
			t.Errorf("%s: %d exchanges for two service accounts", kind, n)
		}
		if n := len(server.Calls("sts:AssumeRoleWithWebIdentity")); n != 0 {
			t.Errorf("%s: %d tokens were sent to STS", kind, n)
		}
	}
}

// TestPodIdentityThroughTheCache reads through the resolver, also when AWS calls the credentials expired.
func TestPodIdentityThroughTheCache(t *testing.T) {
	server := newAssociations(t)
	r := newResolver(t, openPodIdentity(t, aws.SecretsManagerType, server), resolve.Settings{PerIdentity: true, CacheTTL: 1})
	read := func(account, name string) (resolve.Result, error) {
		q := asAssociated(server, account, name)
		return resolveAs(t, r, scope.Identity{Namespace: "shop", ServiceAccount: account, Pod: q.Caller.Pod, PodUID: q.Caller.PodUID}, name, q.Tokens)
	}
	for range 2 {
		for _, account := range []string{"alice", "bob"} {
			if res, err := read(account, "of-"+account); err != nil || string(res.Fields["of-"+account].Reveal()) != "c4n4ry-"+account {
				t.Errorf("%s: %v", account, err)
			}
		}
		if _, err := read("bob", "of-alice"); providers.KindOf(err) != providers.Denied {
			t.Errorf("bob read alice's secret, or: %v", err)
		}
		server.ExpireSessions()
	}
	if n := len(server.Calls("eks-auth:AssumeRoleForPodIdentity")); n != 4 {
		t.Errorf("%d exchanges, want 2 and 2 after the expiry", n)
	}
}

// TestPodIdentityRefused: what the agent of the node says is told by its status only.
func TestPodIdentityRefused(t *testing.T) {
	server := newAssociations(t)
	other := awstest.NewServer(t) // whose tokens are not trusted
	p := openPodIdentity(t, aws.SecretsManagerType, server)
	wantKind(t, p, asAssociated(server, "carol", "of-alice"), providers.Denied, "answered 404: associate a role with service account shop/carol")
	wantKind(t, p, asAssociated(other, "alice", "of-alice"), providers.Denied, "answered 400")
	wantKind(t, p, as(server, "alice", "of-alice"), providers.Invalid, `no token for audience "pods.eks.amazonaws.com"`)
	for _, fault := range []struct {
		awstest.Fault
		kind providers.Kind
		text string
	}{
		{awstest.Fault{Code: "ThrottlingException", Status: http.StatusTooManyRequests}, providers.Throttled, "answered 429"},
		{awstest.Fault{Code: "InternalServerException", Status: http.StatusInternalServerError}, providers.Unavailable, "answered 500"},
		{awstest.Fault{}, providers.Unavailable, "cut off or malformed"},
	} {
		server.Fail(func(awstest.Call) *awstest.Fault { return &fault.Fault })
		wantKind(t, p, asAssociated(server, "alice", "of-alice"), fault.kind, fault.text)
	}
	server.Fail(func(awstest.Call) *awstest.Fault { return &awstest.Fault{Hang: true} })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Fetch(ctx, asAssociated(server, "alice", "of-alice")); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("an agent that hangs: %v", err)
	}
	server.Fail(nil)

	nobody := map[string]string{"podIdentity": "true", "podIdentityEndpoint": "http://127.0.0.1:1/v1/credentials"}
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, nil, nobody), asAssociated(server, "alice", "of-alice"), providers.Unavailable, "connection refused")
}
