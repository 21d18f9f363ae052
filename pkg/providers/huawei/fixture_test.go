package huawei_test

import (
	"testing"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/huawei"
	"github.com/keywell/keywell/pkg/providers/huawei/huaweitest"
)

// TestMain hides what this machine knows of Huawei Cloud.
func TestMain(m *testing.M) {
	servertest.RunTrusting(m, map[string]string{
		"HUAWEICLOUD_SDK_AK": "", "HUAWEICLOUD_SDK_SK": "", "HUAWEICLOUD_SDK_SECURITY_TOKEN": "", "HUAWEICLOUD_SDK_PROJECT_ID": "",
		"HUAWEICLOUD_SDK_IDP_ID": "", "HUAWEICLOUD_SDK_ID_TOKEN_FILE": "", "HUAWEICLOUD_SDK_CREDENTIALS_FILE": "",
	})
}

// A key of admin, who may do everything.
const (
	id    = "HPUAEXAMPLE"
	key   = "k3y-of-huawei"
	admin = "admin"
)

func newServer(t testing.TB) *huaweitest.Server {
	t.Helper()
	server := huaweitest.NewServer(t)
	server.Key(id, key, "", admin)
	server.Allow(admin, "*", "*")
	return server
}

// ofServer is the metadata of a store that reads from server, without credentials.
func ofServer(server *huaweitest.Server, more map[string]string) map[string]string {
	return storetest.With(map[string]string{"region": huaweitest.Region, "endpoint": server.URL, "iamEndpoint": server.IAM}, more)
}

// metadata of a store that reads from server as admin, and more.
func metadata(server *huaweitest.Server, more map[string]string) map[string]string {
	return ofServer(server, storetest.With(map[string]string{"accessKey": id, "secretAccessKey": key}, more))
}

func open(t testing.TB, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, huawei.DriverDialing(loopback.Dialer(t)), cfg)
}

// openOn opens a store on a machine whose metadata service is the server's.
func openOn(t testing.TB, server *huaweitest.Server, metadata map[string]string) providers.Provider {
	t.Helper()
	return storetest.Open(t, huawei.DriverDialing(loopback.Instead(t, "169.254.169.254:80", server.Machine)), storetest.Config(metadata))
}

// newStore returns a server and a provider that reads from it as admin.
func newStore(t testing.TB, more map[string]string) (*huaweitest.Server, providers.Provider) {
	t.Helper()
	server := newServer(t)
	return server, open(t, storetest.Config(metadata(server, more)))
}

func want(t testing.TB, p providers.Provider, q providers.Query, value string) providers.Payload {
	t.Helper()
	return storetest.Want(t, p, q, value)
}

func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	storetest.WantKind(t, p, q, kind, text, key, "MII", "fail", "Policy")
}

// wantCalls fails unless as many calls of each action were made as said, and none of others.
func wantCalls(t testing.TB, server *huaweitest.Server, counts map[string]int) {
	t.Helper()
	made := map[string]int{}
	for _, c := range server.Calls("") {
		made[c.Action]++
	}
	for action, n := range counts {
		if made[action] != n {
			t.Errorf("%d calls of %s, want %d", made[action], action, n)
		}
		delete(made, action)
	}
	if len(made) > 0 {
		t.Errorf("calls that were not expected: %v", made)
	}
}
