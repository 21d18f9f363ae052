package agent_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/test/e2e/cluster"
)

// startAWS starts a fake AWS on the node's address, whose STS trusts the tokens of the cluster, which it checks as AWS
// does: by the issuer's discovery document and published keys.
func startAWS(t *testing.T) *awstest.Server {
	t.Helper()
	needRoot(t)
	var discovery struct{ Issuer string }
	document, err := kubeAPI.do(t.Context(), http.MethodGet, "/.well-known/openid-configuration", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(document, &discovery); err != nil {
		t.Fatal(err)
	}
	published, err := kubeAPI.do(t.Context(), http.MethodGet, "/openid/v1/jwks", "")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := issuertest.ReadKeys(discovery.Issuer, published)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := node.InNetwork(func() (err error) {
		l, err = net.Listen("tcp", cluster.NodeIP+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return awstest.NewAt(t, l, keys)
}

// asPodOf is a store of the fake, read as the pod.
func asPodOf(server *awstest.Server, name string, more map[string]string) values {
	metadata := []values{{"name": "region", "value": awstest.Region}, {"name": "endpoint", "value": server.URL}, {"name": "identity", "value": "pod"}}
	for name, value := range more {
		metadata = append(metadata, values{"name": name, "value": value})
	}
	return values{
		"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": values{"name": name, "namespace": "cloud"},
		"spec": values{"type": "secretstores.aws.secretmanager", "version": "v1", "metadata": metadata},
	}
}

// TestCloudIdentity has the pods of two service accounts read a cloud's secrets with the role of each, by volume and by
// API: by IRSA, and by EKS Pod Identity.
func TestCloudIdentity(t *testing.T) {
	server := startAWS(t)
	ns := newNamespace(t, "cloud")
	accounts := []string{"alice", "bob"}
	for _, account := range accounts {
		subject := issuertest.Subject(ns, account)
		role := server.Role(account, subject, awstest.PodIdentityService)
		server.Associate(subject, role)
		server.Allow(role, "secretsmanager:GetSecretValue", "of-"+account)
		server.PutSecret("of-"+account, "the secret of "+account, false)
		apply(t, reader(ns, account))
		kubectl(t, "annotate", "serviceaccount", account, "--namespace", ns, "eks.amazonaws.com/role-arn="+role)
	}
	install(t, defaults().
		with("serviceAccountAnnotations", true).
		with("tokenRequests", []values{{"audience": "sts.amazonaws.com"}, {"audience": "pods.eks.amazonaws.com"}}).
		with("stores", []values{
			asPodOf(server, "irsa", map[string]string{"stsEndpoint": server.URL}),
			asPodOf(server, "eks", map[string]string{"podIdentity": "true", "podIdentityEndpoint": server.PodIdentityURL()}),
		}))
	volume := func(pod, account, store, secret string) caller {
		return caller{namespace: ns, name: pod, serviceAccount: account, attributes: map[string]string{"store": store, "secrets": secret, "api": "socket"}}
	}
	thief := volume("thief", "bob", "irsa", "of-alice")
	manifest := thief.manifest()
	var pods []caller
	for i := range 3 {
		pods = append(pods, volume(fmt.Sprint("alice-", i), "alice", "irsa", "of-alice"))
	}
	pods = append(pods, volume("bob", "bob", "eks", "of-bob"))
	for _, p := range pods {
		manifest += p.manifest()
	}
	apply(t, manifest)
	for _, p := range pods {
		p.pod().waitReady(t)
		mine := "of-" + p.serviceAccount
		waitFile(t, patience, p.pod().directory(t)+"/"+mine, "the secret of "+p.serviceAccount)
	}
	wantWhy(t, failedMount(t, thief.pod()), "of-alice", "AccessDeniedException")
	for _, p := range []caller{pods[0], pods[3]} {
		mine, other := "of-alice", "of-bob"
		if p.serviceAccount == "bob" {
			mine, other = other, mine
		}
		for _, store := range []string{"irsa", "eks"} {
			path := "/v1.0/secrets/" + store + "/"
			p.wants(t, fmt.Sprintf("200 {%q:%q}\n", mine, "the secret of "+p.serviceAccount), "socket", path+mine)
			if got := p.call(t, "socket", path+other); !strings.HasPrefix(got, "500 ") || !strings.Contains(got, "AccessDeniedException") {
				t.Errorf("%s reads %s of %s: %s", p.name, other, store, got)
			}
		}
	}
	for _, action := range []string{"sts:AssumeRoleWithWebIdentity", "eks-auth:AssumeRoleForPodIdentity"} {
		if n := len(server.Calls(action)); n != len(accounts) {
			t.Errorf("%d of %s for %d service accounts", n, action, len(accounts))
		}
	}
}
