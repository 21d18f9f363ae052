package huawei_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/huawei/huaweitest"
)

// newPods returns a fake in which alice and bob may each read one secret.
func newPods(t *testing.T) *huaweitest.Server {
	t.Helper()
	server := huaweitest.NewServer(t)
	for _, account := range []string{"alice", "bob"} {
		server.Put("of-"+account, "c4n4ry-"+account, false)
		server.Allow(storetest.Subject(account), "*", "of-"+account)
	}
	return server
}

func openAsPod(t *testing.T, server *huaweitest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, storetest.Config(ofServer(server, storetest.With(map[string]string{
		"identity": "pod", "identityProvider": huaweitest.Provider, "tokenAudience": huaweitest.Audience,
	}, more))))
}

func as(server *huaweitest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, huaweitest.Audience)
}

func TestPods(t *testing.T) {
	for name, more := range map[string]map[string]string{"project of the region": nil, "project by id": {"projectId": huaweitest.Project}} {
		t.Run(name, func(t *testing.T) {
			storetest.RunPods(t, func(t *testing.T) storetest.Pods {
				server := newPods(t)
				return storetest.Pods{
					Provider: openAsPod(t, server, more), Issuer: server.Issuer, Audience: huaweitest.Audience,
					Denied:    "answered 403",
					Exchanges: func() int { return len(server.Calls("exchange")) },
					Reads:     func() int { return len(server.Calls("ShowSecretVersion")) },
					Revoke:    server.Revoke, Revoked: providers.Denied, Says: "answered 401 APIG.0301",
				}
			})
		})
	}
}

// TestExchangeFails: what IAM refuses is the pod's to mend, and what breaks down is nobody's.
func TestExchangeFails(t *testing.T) {
	server := newPods(t)
	q := as(server, "alice", "of-alice")
	wantKind(t, openAsPod(t, server, map[string]string{"identityProvider": "other"}), q, providers.Denied, "identity provider other): Huawei Cloud answered 404")
	wantKind(t, openAsPod(t, server, map[string]string{"projectId": "other"}), q, providers.Denied, "service account shop/alice")
	wantKind(t, openAsPod(t, server, map[string]string{"iamEndpoint": "https://127.0.0.1:1"}), q, providers.Unavailable, "refused")
	for kind, fault := range map[providers.Kind]servertest.Fault{
		providers.Unavailable: {Status: 503}, providers.Throttled: {Status: 429}, providers.Unknown: {},
	} {
		server.Fail(func(c servertest.Call) *servertest.Fault {
			if c.Action == "exchange" {
				return &fault
			}
			return nil
		})
		if kind == providers.Unknown { // half an answer
			kind = providers.Unavailable
		}
		wantKind(t, openAsPod(t, server, nil), q, kind, "")
	}
	server.Fail(nil)
	server.Lifetime(-time.Minute)
	wantKind(t, openAsPod(t, server, nil), q, providers.Unavailable, "compare the clocks")
}

// TestMachine reads with the agency of a machine, whose keys are asked for once and again when they are refused.
func TestMachine(t *testing.T) {
	for name, old := range map[string]bool{"tokens": false, "no tokens": true} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			server.Put("db", "c4n4ry", false)
			server.Agency(admin, old)
			p := openOn(t, server, ofServer(server, nil))
			for range 3 {
				want(t, p, providers.Query{Name: "db"}, "c4n4ry")
			}
			wantCalls(t, server, map[string]int{"machine": 1, "projects": 1, "ShowSecretVersion": 3})
			server.Revoke()
			wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "answered 401")
			want(t, p, providers.Query{Name: "db"}, "c4n4ry")
		})
	}
	server := newServer(t)
	wantKind(t, openOn(t, server, ofServer(server, nil)), providers.Query{Name: "db"}, providers.Unavailable, "give the machine an agency: the node's metadata service answered 401")
}

// TestEnvironment reads with what the SDK's environment variables and its profile file say.
func TestEnvironment(t *testing.T) {
	server := newServer(t)
	server.Put("db", "c4n4ry", false)
	t.Run("variables", func(t *testing.T) {
		t.Setenv("HUAWEICLOUD_SDK_AK", id)
		t.Setenv("HUAWEICLOUD_SDK_SK", key)
		t.Setenv("HUAWEICLOUD_SDK_PROJECT_ID", huaweitest.Project)
		want(t, open(t, storetest.Config(ofServer(server, nil))), providers.Query{Name: "db"}, "c4n4ry")
		wantCalls(t, server, map[string]int{"ShowSecretVersion": 1})
	})
	t.Run("profile", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "credentials")
		if err := os.WriteFile(file, []byte("[basic]\nak = "+id+"\nsk = "+key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("HUAWEICLOUD_SDK_CREDENTIALS_FILE", file)
		want(t, open(t, storetest.Config(ofServer(server, nil))), providers.Query{Name: "db"}, "c4n4ry")
	})
	t.Run("token file", func(t *testing.T) {
		server.Allow("agent", "*", "*")
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(server.Issuer.Token("agent", huaweitest.Audience, time.Now().Add(time.Hour))+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("HUAWEICLOUD_SDK_IDP_ID", huaweitest.Provider)
		t.Setenv("HUAWEICLOUD_SDK_ID_TOKEN_FILE", file)
		p := open(t, storetest.Config(ofServer(server, nil)))
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
		server.Revoke()
		wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "answered 401")
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
		t.Setenv("HUAWEICLOUD_SDK_ID_TOKEN_FILE", file+".none")
		wantKind(t, open(t, storetest.Config(ofServer(server, nil))), providers.Query{Name: "db"}, providers.Unavailable, "HUAWEICLOUD_SDK_ID_TOKEN_FILE")
	})
}
