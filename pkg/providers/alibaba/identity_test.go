package alibaba_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/alibaba"
	"github.com/keywell/keywell/pkg/providers/alibaba/alibabatest"
)

const roleAlice = "acs:ram::" + alibabatest.Account + ":role/role-of-alice"

// newPods returns a fake in which alice and bob have a role each, which may read one secret.
func newPods(t *testing.T) (*alibabatest.Server, storetest.Accounts) {
	t.Helper()
	server := alibabatest.NewServer(t, id, key, token)
	accounts := storetest.Accounts{}
	for _, account := range []string{"alice", "bob"} {
		role := server.Role("role-of-"+account, storetest.Subject(account))
		accounts["shop/"+account] = map[string]string{"pod-identity.alibabacloud.com/role-name": "role-of-" + account}
		server.Allow(role, "GetSecretParameter", "of-"+account)
		server.Put("of-"+account, "c4n4ry-"+account)
	}
	return server, accounts
}

// asPod is the metadata of a store that is read as the pod, and more.
func asPod(server *alibabatest.Server, more map[string]string) map[string]string {
	return storetest.With(map[string]string{
		"regionId": "cn-hangzhou", "endpoint": server.URL, "stsEndpoint": server.URL, "identity": "pod", "oidcProviderArn": alibabatest.Provider,
	}, more)
}

func openAsPod(t *testing.T, server *alibabatest.Server, accounts providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	cfg := storetest.Config(asPod(server, more))
	cfg.ServiceAccounts = accounts
	return open(t, cfg)
}

func exchanges(server *alibabatest.Server) int { return len(server.Calls("AssumeRoleWithOIDC")) }

func TestPods(t *testing.T) {
	storetest.RunPods(t, func(t *testing.T) storetest.Pods {
		server, accounts := newPods(t)
		return storetest.Pods{
			Provider: openAsPod(t, server, accounts, nil), Issuer: server.Issuer, Audience: alibabatest.Audience,
			Denied:    "Forbidden.RAM",
			Exchanges: func() int { return exchanges(server) },
			Reads:     func() int { return len(server.Calls("GetSecretParameter")) },
			Revoke:    server.Expire, Revoked: providers.Unavailable, Says: "InvalidSecurityToken.Expired",
			Faults: map[providers.Kind]func(){
				providers.Throttled: func() {
					server.FailName(roleAlice, servertest.Fault{Code: "Throttling.User", Status: http.StatusBadRequest})
				},
				providers.Unavailable: func() {
					server.FailName(roleAlice, servertest.Fault{Code: "ServiceUnavailable", Status: http.StatusServiceUnavailable})
				},
			},
		}
	})
}

// TestOldSession: a session that has expired when it comes is not used.
func TestOldSession(t *testing.T) {
	server, accounts := newPods(t)
	server.Life(-time.Minute)
	q := server.Issuer.Query("of-bob", "shop", "bob", alibabatest.Audience)
	storetest.WantKind(t, openAsPod(t, server, accounts, nil), q, providers.Unavailable, "compare the clocks")
}

// TestRoles: the annotation decides, then the manifest; without either nothing is asked.
func TestRoles(t *testing.T) {
	server, accounts := newPods(t)
	as := func(account, name string) providers.Query {
		return server.Issuer.Query(name, "shop", account, alibabatest.Audience)
	}
	manifest := map[string]string{"roleArn": roleAlice}
	storetest.Want(t, openAsPod(t, server, nil, manifest), as("alice", "of-alice"), "c4n4ry-alice")
	storetest.Want(t, openAsPod(t, server, accounts, manifest), as("bob", "of-bob"), "c4n4ry-bob")
	strange := storetest.Accounts{"shop/bob": {"pod-identity.alibabacloud.com/role-name": "x/../role-of-alice"}}
	missing := storetest.Accounts{"shop/bob": {"pod-identity.alibabacloud.com/role-name": "missing"}}
	for name, tt := range map[string]struct {
		p    providers.Provider
		kind providers.Kind
		text string
	}{
		"does not trust bob":  {openAsPod(t, server, nil, manifest), providers.Denied, "sts:AssumeRoleWithOIDC of acs:ram::1234567890123456:role/role-of-alice: Alibaba Cloud answered AuthenticationFail.NoPermission"},
		"no annotation":       {openAsPod(t, server, storetest.Accounts{}, nil), providers.Denied, "annotate it"},
		"no right, no role":   {openAsPod(t, server, nil, nil), providers.Denied, "roleArn"},
		"is no name":          {openAsPod(t, server, strange, nil), providers.Denied, "is not the name of a role"},
		"role is missing":     {openAsPod(t, server, missing, nil), providers.Denied, "EntityNotExist.Role"},
		"provider is missing": {openAsPod(t, server, accounts, map[string]string{"oidcProviderArn": alibabatest.Provider + "2"}), providers.Denied, "EntityNotExist.OIDCProvider"},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.WantKind(t, tt.p, as("bob", "of-bob"), tt.kind, tt.text)
		})
	}
	other := server.Issuer.Query("of-bob", "shop", "bob", "elsewhere")
	storetest.WantKind(t, openAsPod(t, server, accounts, map[string]string{"tokenAudience": "elsewhere"}), other, providers.Denied, "AuthenticationFail.OIDCToken.Invalid")
}

// openOnNode opens a store without keys. The address of the metadata service is the fake's.
func openOnNode(t *testing.T, server *alibabatest.Server) providers.Provider {
	t.Helper()
	driver := alibaba.DriverDialing(loopback.Instead(t, "100.100.100.200:80", server.Node))
	return storetest.Open(t, driver, storetest.Config(map[string]string{"regionId": "cn-hangzhou", "endpoint": server.URL, "stsEndpoint": server.URL}))
}

// TestAgent reads with what the platform gives the agent: the role of its node, or one by RRSA.
func TestAgent(t *testing.T) {
	server := alibabatest.NewServer(t, id, key, token)
	server.Put("db", "c4n4ry")
	q := providers.Query{Name: "db"}
	storetest.WantKind(t, openOnNode(t, server), q, providers.Denied, "set accessKeyId and accessKeySecret, give it a role by RRSA, or give its node a RAM role")

	server.NodeRole("node")
	server.Allow("acs:ram::"+alibabatest.Account+":role/node", "*", "db")
	p := openOnNode(t, server)
	for range 3 {
		storetest.Want(t, p, q, "c4n4ry")
	}
	server.Expire()
	storetest.WantKind(t, p, q, providers.Unavailable, "Expired")
	storetest.Want(t, p, q, "c4n4ry")
	if n := len(server.Calls("node")); n != 2+2*3 {
		t.Errorf("the metadata service was asked %d times", n)
	}
	server.OldNode()
	storetest.Want(t, openOnNode(t, server), q, "c4n4ry")

	role := server.Role("agent", "system:serviceaccount:keywell:keywell")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(server.Issuer.Token("system:serviceaccount:keywell:keywell", alibabatest.Audience, time.Now().Add(time.Hour))), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ALIBABA_CLOUD_ROLE_ARN", role)
	t.Setenv("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", alibabatest.Provider)
	t.Setenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE", file)
	p = openOnNode(t, server)
	storetest.WantKind(t, p, q, providers.Denied, "Forbidden.RAM")
	server.Allow(role, "*", "*")
	storetest.Want(t, p, q, "c4n4ry")
	if n := exchanges(server); n != 1 {
		t.Errorf("%d logins of the agent", n)
	}
	t.Setenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE", "/nonexistent")
	storetest.WantKind(t, openOnNode(t, server), q, providers.Unavailable, "ALIBABA_CLOUD_OIDC_TOKEN_FILE")
}

func TestInvalidMetadata(t *testing.T) {
	server := alibabatest.NewServer(t, id, key, token)
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"keys of a pod":       {asPod(server, map[string]string{"accessKeyId": id, "accessKeySecret": key}), "leave out accessKeyId"},
		"half a key":          {map[string]string{"regionId": "r", "accessKeyId": id}, "belong together"},
		"token without a key": {map[string]string{"regionId": "r", "securityToken": token}, "belong together"},
		"no provider":         {asPod(server, map[string]string{"oidcProviderArn": ""}), `"oidcProviderArn" is required`},
		"no provider's ARN":   {asPod(server, map[string]string{"oidcProviderArn": "acs:ram::1:role/x"}), `"oidcProviderArn" is required`},
		"role of the agent":   {map[string]string{"regionId": "r", "roleArn": "x"}, "are for identity: pod"},
		"sts":                 {asPod(server, map[string]string{"stsEndpoint": "sts"}), `"stsEndpoint" is not a URL`},
	} {
		t.Run(name, func(t *testing.T) { storetest.WantInvalid(t, alibaba.Driver(), tt.metadata, tt.text, key) })
	}
}

// TestDebug starts the test again with the variable by which the SDK prints requests: no store opens then, so none prints.
func TestDebug(t *testing.T) {
	if os.Getenv("TEST_DEBUG") != "" {
		server := alibabatest.NewServer(t, id, key, token)
		server.Put("db", "c4n4ry")
		p, err := alibaba.DriverDialing(loopback.Dialer(t)).Open(t.Context(), config(server, nil))
		if err == nil {
			_, err = p.Fetch(t.Context(), providers.Query{Name: "db"})
		}
		t.Log("opened: ", err)
		return
	}
	for value, refused := range map[string]bool{"": false, "1": false, "other": false, "dara": true, "tea": true, "x,dara": true} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDebug$", "-test.v")
		cmd.Env = append(os.Environ(), "TEST_DEBUG=1", "DEBUG="+value)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := strings.Contains(string(out), "leave dara and tea out of it"); got != refused || strings.Contains(string(out), token) {
			t.Errorf("DEBUG=%s: refused %t, prints\n%s", value, got, out)
		}
	}
}
