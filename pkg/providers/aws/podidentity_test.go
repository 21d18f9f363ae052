package aws_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
)

// newAssociations returns a fake in which EKS gives the service accounts alice and bob a role each.
func newAssociations(t *testing.T) *awstest.Server {
	t.Helper()
	server, accounts := newPods(t)
	for _, account := range []string{"alice", "bob"} {
		server.Role(account, awstest.PodIdentityService)
		server.Associate(storetest.Subject(account), accounts["shop/"+account]["eks.amazonaws.com/role-arn"])
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

func TestPodIdentity(t *testing.T) {
	for kind, read := range map[string]string{aws.SecretsManagerType: "secretsmanager:GetSecretValue", aws.ParameterStoreType: "ssm:GetParameter"} {
		t.Run(kind, func(t *testing.T) {
			storetest.RunPods(t, func(t *testing.T) storetest.Pods {
				server := newAssociations(t)
				t.Cleanup(func() {
					if n := len(server.Calls("sts:AssumeRoleWithWebIdentity")); n != 0 {
						t.Errorf("%d tokens were sent to STS", n)
					}
				})
				return storetest.Pods{
					Provider: openPodIdentity(t, kind, server), Issuer: server.Issuer, Audience: awstest.PodIdentityService,
					Denied:    "AccessDeniedException",
					Exchanges: func() int { return len(server.Calls("eks-auth:AssumeRoleForPodIdentity")) },
					Reads:     func() int { return len(server.Calls(read)) },
					Revoke:    server.ExpireSessions, Revoked: providers.Unavailable, Says: "ExpiredToken",
				}
			})
		})
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

// TestPastProxy: a token for the agent of the node goes nowhere else.
func TestPastProxy(t *testing.T) {
	server := newAssociations(t)
	client := aws.PastProxy(&http.Transport{Proxy: func(*http.Request) (*url.URL, error) {
		t.Error("a proxy is asked for")
		return nil, nil
	}})
	resp, err := client.Get(server.PodIdentityURL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest { // there was no token
		t.Errorf("status %d", resp.StatusCode)
	}
}
