package gcp_test

import (
	"strings"
	"testing"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gcp/gcptest"
)

// newPods returns a fake in which alice is a service account of the cloud, and bob a federated principal; each may access
// one secret.
func newPods(t *testing.T) (*gcptest.Server, storetest.Accounts) {
	t.Helper()
	server := gcptest.NewServer(t)
	server.ServiceAccount(emailAlice, storetest.Subject("alice"))
	server.Allow(emailAlice, "*", "of-alice")
	server.Allow(gcptest.Principal(storetest.Subject("bob")), "*", "of-bob")
	server.Put("of-alice", "c4n4ry-alice")
	server.Put("of-bob", "c4n4ry-bob")
	return server, storetest.Accounts{"shop/alice": {"iam.gke.io/gcp-service-account": emailAlice}}
}

const emailAlice = "alice@my-project.iam.gserviceaccount.com"

func openAsPod(t *testing.T, server *gcptest.Server, accounts providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	cfg := storetest.Config(storetest.With(map[string]string{
		"projectID": gcptest.Project, "endpoint": server.URL, "identity": "pod", "workloadIdentityProvider": gcptest.Provider,
		"stsEndpoint": server.Login, "iamCredentialsEndpoint": server.Login,
	}, more))
	cfg.ServiceAccounts = accounts
	return open(t, cfg)
}

func TestPods(t *testing.T) {
	storetest.RunPods(t, func(t *testing.T) storetest.Pods {
		server, accounts := newPods(t)
		return storetest.Pods{
			Provider: openAsPod(t, server, accounts, nil), Issuer: server.Issuer, Audience: gcptest.Audience,
			Denied:    "IAM does not allow it",
			Exchanges: func() int { return len(server.Calls("sts")) },
			Reads:     func() int { return len(server.Calls("AccessSecretVersion")) },
			Revoke:    server.Revoke, Revoked: providers.Denied, Says: "not accepted",
		}
	})
}

func TestIdentities(t *testing.T) {
	server, accounts := newPods(t)
	manifest := map[string]string{"serviceAccountEmail": emailAlice}
	p := openAsPod(t, server, nil, manifest)
	for range 2 {
		want(t, p, as(server, "alice", "of-alice"), "c4n4ry-alice")
	}
	if n := len(server.Calls("impersonate")); n != 1 {
		t.Errorf("%d impersonations for two reads", n)
	}
	wantKind(t, openAsPod(t, server, nil, manifest), as(server, "bob", "of-bob"), providers.Denied, "refuses it (403)")
	other := gcptest.NewServer(t) // whose issuer is not trusted
	wantKind(t, openAsPod(t, server, accounts, nil), as(other, "bob", "of-bob"), providers.Denied, "refuses it (400)")

	const gke = "identitynamespace:my-project.svc.id.goog:https://container.googleapis.com/v1/projects/my-project/locations/l/clusters/c"
	q := server.Issuer.Query("of-bob", "shop", "bob", "my-project.svc.id.goog")
	_, _, err := storetest.Fetch(t, openAsPod(t, server, nil, map[string]string{"workloadIdentityProvider": gke}), q)
	if providers.KindOf(err) != providers.Denied || strings.Contains(err.Error(), "audience") || server.Calls("sts")[len(server.Calls("sts"))-1].Name != gke {
		t.Errorf("on GKE: %v, after %v", err, server.Calls("sts"))
	}
}
