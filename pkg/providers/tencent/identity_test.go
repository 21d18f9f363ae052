package tencent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/tencent"
	"github.com/keywell/keywell/pkg/providers/tencent/tencenttest"
)

const annotation = "tke.cloud.tencent.com/role-arn"

const roleAlice = "qcs::cam::uin/100000000001:roleName/role-of-alice"

// newPods returns a fake in which alice and bob have a role each, which may read one secret.
func newPods(t *testing.T) (*tencenttest.Server, storetest.Accounts) {
	t.Helper()
	server := tencenttest.NewServer(t, id, key, token)
	accounts := storetest.Accounts{}
	for _, account := range []string{"alice", "bob"} {
		role := server.Role("role-of-"+account, storetest.Subject(account))
		accounts["shop/"+account] = map[string]string{annotation: role}
		server.Allow(role, "GetSecretValue", "of-"+account)
		server.Put("of-"+account, "c4n4ry-"+account, false)
	}
	return server, accounts
}

// asPod is the metadata of a store that is read as the pod, and more.
func asPod(server *tencenttest.Server, more map[string]string) map[string]string {
	return storetest.With(map[string]string{
		"region": "ap-guangzhou", "endpoint": server.URL, "stsEndpoint": server.URL, "identity": "pod", "providerId": tencenttest.Provider,
	}, more)
}

func openAsPod(t *testing.T, server *tencenttest.Server, accounts providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	cfg := storetest.Config(asPod(server, more))
	cfg.ServiceAccounts = accounts
	return open(t, cfg)
}

func exchanges(server *tencenttest.Server) int { return len(server.Calls("AssumeRoleWithWebIdentity")) }

func TestPods(t *testing.T) {
	storetest.RunPods(t, func(t *testing.T) storetest.Pods {
		server, accounts := newPods(t)
		return storetest.Pods{
			Provider: openAsPod(t, server, accounts, nil), Issuer: server.Issuer, Audience: tencenttest.Audience,
			Denied:    "UnauthorizedOperation",
			Exchanges: func() int { return exchanges(server) },
			Reads:     func() int { return len(server.Calls("GetSecretValue")) },
			Revoke:    server.Expire, Revoked: providers.Unavailable, Says: "AuthFailure.TokenFailure",
			Faults: map[providers.Kind]func(){
				providers.Throttled:   func() { server.FailName(roleAlice, servertest.Fault{Code: "RequestLimitExceeded"}) },
				providers.Unavailable: func() { server.FailName(roleAlice, servertest.Fault{Status: http.StatusServiceUnavailable}) },
			},
		}
	})
}

// TestOldSession: a session that has expired when it comes is not used.
func TestOldSession(t *testing.T) {
	server, accounts := newPods(t)
	server.Life(-time.Minute)
	q := server.Issuer.Query("of-bob", "shop", "bob", tencenttest.Audience)
	storetest.WantKind(t, openAsPod(t, server, accounts, nil), q, providers.Unavailable, "compare the clocks")
}

// TestRoles: the annotation decides, then the manifest; without either nothing is asked.
func TestRoles(t *testing.T) {
	server, accounts := newPods(t)
	as := func(account, name string) providers.Query {
		return server.Issuer.Query(name, "shop", account, tencenttest.Audience)
	}
	manifest := map[string]string{"roleArn": roleAlice}
	storetest.Want(t, openAsPod(t, server, nil, manifest), as("alice", "of-alice"), "c4n4ry-alice")
	storetest.Want(t, openAsPod(t, server, accounts, manifest), as("bob", "of-bob"), "c4n4ry-bob")
	strange := storetest.Accounts{"shop/bob": {annotation: "a role"}}
	missing := storetest.Accounts{"shop/bob": {annotation: accounts["shop/bob"][annotation] + "2"}}
	for name, tt := range map[string]struct {
		p    providers.Provider
		text string
	}{
		"does not trust bob":  {openAsPod(t, server, nil, manifest), "sts:AssumeRoleWithWebIdentity of qcs::cam::uin/100000000001:roleName/role-of-alice: Tencent Cloud answered UnauthorizedOperation"},
		"no annotation":       {openAsPod(t, server, storetest.Accounts{}, nil), "annotate it"},
		"no right, no role":   {openAsPod(t, server, nil, nil), "roleArn"},
		"is no ARN":           {openAsPod(t, server, strange, nil), "is not the ARN of a role"},
		"role is missing":     {openAsPod(t, server, missing, nil), "ResourceNotFound.RoleNotFound"},
		"provider is missing": {openAsPod(t, server, accounts, map[string]string{"providerId": "cls-x"}), "InvalidParameter.ParamError"},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.WantKind(t, tt.p, as("bob", "of-bob"), providers.Denied, tt.text)
		})
	}
	other := server.Issuer.Query("of-bob", "shop", "bob", "elsewhere")
	storetest.WantKind(t, openAsPod(t, server, accounts, map[string]string{"tokenAudience": "elsewhere"}), other, providers.Denied, "InvalidParameter.WebIdentityTokenError")
}

// openOnNode opens a store without keys. The address of the metadata service is the fake's.
func openOnNode(t *testing.T, server *tencenttest.Server) providers.Provider {
	t.Helper()
	driver := tencent.DriverDialing(loopback.Instead(t, "metadata.tencentyun.com:80", server.Node))
	return storetest.Open(t, driver, storetest.Config(map[string]string{"region": "ap-guangzhou", "endpoint": server.URL, "stsEndpoint": server.URL}))
}

// TestAgent reads with what the platform gives the agent: the role of its node, or one by TKE's OIDC.
func TestAgent(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry", false)
	q := providers.Query{Name: "db"}
	storetest.WantKind(t, openOnNode(t, server), q, providers.Denied, "set secretId and secretKey, give it a role by TKE's OIDC, or give its node a CAM role")

	server.Allow(server.NodeRole("node"), "*", "db")
	p := openOnNode(t, server)
	for range 3 {
		storetest.Want(t, p, q, "c4n4ry")
	}
	server.Expire()
	storetest.WantKind(t, p, q, providers.Unavailable, "TokenFailure")
	storetest.Want(t, p, q, "c4n4ry")
	if n := len(server.Calls("node")); n != 1+2*2 {
		t.Errorf("the metadata service was asked %d times", n)
	}

	const agent = "system:serviceaccount:keywell:keywell"
	role := server.Role("agent", agent)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(server.Issuer.Token(agent, tencenttest.Audience, time.Now().Add(time.Hour))), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"TKE_REGION": "ap-guangzhou", "TKE_PROVIDER_ID": tencenttest.Provider, "TKE_ROLE_ARN": role, "TKE_WEB_IDENTITY_TOKEN_FILE": file,
	} {
		t.Setenv(name, value)
	}
	p = openOnNode(t, server)
	storetest.WantKind(t, p, q, providers.Denied, "UnauthorizedOperation")
	server.Allow(role, "*", "*")
	storetest.Want(t, p, q, "c4n4ry")
	if n := exchanges(server); n != 1 {
		t.Errorf("%d logins of the agent", n)
	}
	t.Setenv("TKE_WEB_IDENTITY_TOKEN_FILE", "/nonexistent")
	storetest.WantKind(t, openOnNode(t, server), q, providers.Unavailable, "TKE_WEB_IDENTITY_TOKEN_FILE")
}

func TestInvalidMetadata(t *testing.T) {
	server := tencenttest.NewServer(t, id, key, token)
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"keys of a pod":       {asPod(server, map[string]string{"secretId": id, "secretKey": key}), "leave out secretId"},
		"half a key":          {map[string]string{"secretKey": key}, "belong together"},
		"token without a key": {map[string]string{"token": token}, "belong together"},
		"no provider":         {asPod(server, map[string]string{"providerId": ""}), `"providerId", the cluster's OIDC provider`},
		"no region":           {asPod(server, map[string]string{"region": ""}), `"region" are required`},
		"role of the agent":   {map[string]string{"roleArn": "x"}, "are for identity: pod"},
		"sts":                 {asPod(server, map[string]string{"stsEndpoint": "sts"}), `"stsEndpoint" is not a URL`},
	} {
		t.Run(name, func(t *testing.T) { storetest.WantInvalid(t, tencent.Driver(), tt.metadata, tt.text, key) })
	}
}

// TestRedirect: neither a signed request nor a token goes where an answer says.
func TestRedirect(t *testing.T) {
	elsewhere := servertest.Serve(t, false, func(http.ResponseWriter, *http.Request) { t.Error("followed") })
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		server := servertest.Serve(t, false, http.RedirectHandler(elsewhere.URL, status).ServeHTTP)
		cfg := storetest.Config(map[string]string{"secretId": id, "secretKey": key, "token": token, "endpoint": server.URL})
		storetest.WantKind(t, open(t, cfg), providers.Query{Name: "db"}, providers.Unavailable, "")
	}
}
