package conjur_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/conjur"
	"github.com/keywell/keywell/pkg/providers/conjur/conjurtest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// TestAPIKey logs in once for many reads, and again with what the key's file has by then.
func TestAPIKey(t *testing.T) {
	server := newServer(t)
	server.Put("db", "c4n4ry")
	p := open(t, config(metadata(server, nil)))
	for range 3 {
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	}
	if n := len(server.Calls("authn")); n != 1 {
		t.Errorf("%d logins for three reads", n)
	}
	file := filepath.Join(t.TempDir(), "key")
	p = open(t, config(metadata(server, map[string]string{"apiKey": "", "apiKeyPath": file})))
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "apiKeyPath")
	write(t, file, "4p1k3y-wrong\n")
	wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "log in to Conjur as "+agent+": Conjur refuses it; Conjur's log says why (401)")
	write(t, file, server.Host(agent)+"\n")
	want(t, p, providers.Query{Name: "db"}, "c4n4ry")
}

// TestAgentsToken logs in with a token from a file, as the host that the token names and as one that the manifest does.
func TestAgentsToken(t *testing.T) {
	server := newServer(t)
	server.Put("db", "c4n4ry")
	server.Trust(storetest.Subject("keywell"), agent)
	file := filepath.Join(t.TempDir(), "token")
	jwt := map[string]string{"serviceId": conjurtest.ServiceID, "apiKey": "", "jwtPath": file}
	p := open(t, config(metadata(server, jwt)))
	for _, token := range []string{
		server.Issuer.Token(storetest.Subject("keywell"), "other", time.Now().Add(time.Hour)),
		server.Issuer.Token(storetest.Subject("keywell"), conjurtest.Audience, time.Now().Add(-time.Hour)),
		server.Issuer.Token(storetest.Subject("other"), conjurtest.Audience, time.Now().Add(time.Hour)),
	} {
		write(t, file, token)
		wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "log in to Conjur by authn-jwt/prod/cluster as "+agent)
	}
	write(t, file, server.Issuer.Token(storetest.Subject("keywell"), conjurtest.Audience, time.Now().Add(time.Hour)))
	want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	jwt["login"] = ""
	want(t, open(t, config(metadata(server, jwt))), providers.Query{Name: "db"}, "c4n4ry")
	if calls := server.Calls("authn-jwt"); calls[len(calls)-1].Name != "" {
		t.Errorf("login %q in the path", calls[len(calls)-1].Name)
	}
	jwt["login"] = "host/other"
	wantKind(t, open(t, config(metadata(server, jwt))), providers.Query{Name: "db"}, providers.Denied, "as host/other")
	jwt["serviceId"] = "other"
	wantKind(t, open(t, config(metadata(server, jwt))), providers.Query{Name: "db"}, providers.Denied, "(401)")
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDynamicSecrets: each read issues a secret, which says how long it is valid. The resolver reads once.
func TestDynamicSecrets(t *testing.T) {
	server, p := newStore(t, map[string]string{"multipleKeyValuesPerSecret": "true", "nestedSeparator": "."})
	server.Dynamic("aws", time.Hour)
	q := providers.Query{Name: "data/dynamic/aws"}
	for i := range 2 {
		got, payload, err := storetest.Fetch(t, p, q)
		if want := fmt.Sprint("c4n4ry-", i+1); err != nil || got["data.access_key_id"] != want || !payload.Issued {
			t.Fatalf("got %v, %v; want %s, issued", got, err, want)
		}
		if left := time.Until(payload.NotAfter); left < 59*time.Minute || left > time.Hour {
			t.Errorf("valid for %v", left)
		}
	}
	wantKind(t, p, providers.Query{Name: q.Name, Version: "1"}, providers.Invalid, "dynamic secrets have none")
	if names, err := p.(providers.Lister).List(t.Context(), providers.Query{}); err != nil || len(names) != 0 {
		t.Errorf("List = %v, %v", names, err)
	}
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "conjur", Provider: p})
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "conjur"}}})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := policy.Authorize(scope.Identity{Namespace: "shop"}, scope.Ref{Store: "conjur", Name: q.Name})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		res, err := r.Resolve(t.Context(), resolve.Request{Grant: grant, Origin: "volume", Fresh: true})
		if err != nil || string(res.Fields["data.access_key_id"].Reveal()) != "c4n4ry-3" {
			t.Errorf("through the resolver: %v", err)
		}
	}
}

// TestRefusedToken: an access token that Conjur does not accept any more is replaced within the read, once for all readers;
// if the next is not accepted either, the read is denied.
func TestRefusedToken(t *testing.T) {
	server, p := newStore(t, nil)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("app/", i))
		server.Put(names[i], "c4n4ry of "+names[i])
	}
	read(t, p, names)
	server.Revoke()
	read(t, p, names)
	if n := len(server.Calls("authn")); n != 2 {
		t.Errorf("%d logins, want one and one more for all readers", n)
	}
	for _, q := range []providers.Query{{Name: "app/1", Version: "1"}, {}} {
		server.Revoke()
		if q.Name != "" {
			want(t, p, q, "c4n4ry of app/1")
		} else if _, err := p.(providers.Lister).List(t.Context(), q); err != nil {
			t.Errorf("List: %v", err)
		}
	}
	server.Fail(failing("read", servertest.Fault{Status: 401}))
	before := len(server.Calls("authn"))
	wantKind(t, p, providers.Query{Name: "app/1"}, providers.Denied, "does not accept the access token (401)")
	if n := len(server.Calls("authn")) - before; n != 1 {
		t.Errorf("%d logins for a read that is refused again", n)
	}
}

// TestLogins that fail say why.
func TestLoginErrors(t *testing.T) {
	server, p := newStore(t, nil)
	server.Put("db", "c4n4ry")
	for name, tt := range map[string]struct {
		fault servertest.Fault
		kind  providers.Kind
		text  string
	}{
		"half a body": {servertest.Fault{}, providers.Unavailable, "EOF"},
		"no token":    {servertest.Fault{Status: 200}, providers.Unavailable, "no access token"},
		"403":         {servertest.Fault{Status: 403}, providers.Denied, "(403)"},
		"404":         {servertest.Fault{Status: 404}, providers.Denied, "no such authenticator, or account (404)"},
		"429":         {servertest.Fault{Status: 429}, providers.Throttled, "fewer requests"},
		"503":         {servertest.Fault{Status: 503}, providers.Unavailable, "(503)"},
	} {
		t.Run(name, func(t *testing.T) {
			server.Fail(failing("authn", tt.fault))
			wantKind(t, p, providers.Query{Name: "db"}, tt.kind, tt.text)
		})
	}
}

// TestTokensAreRenewed before they end, whatever Conjur's clock says, and whether or not they say how long they live.
func TestTokensAreRenewed(t *testing.T) {
	for name, tt := range map[string]struct {
		life, skew time.Duration
		good, late time.Duration // when a token is still used, and no more
	}{
		"as issued":            {8 * time.Minute, 0, 6 * time.Minute, 7 * time.Minute},
		"untold":               {0, 0, 6 * time.Minute, 7 * time.Minute},
		"longer":               {time.Hour, 0, 49 * time.Minute, 51 * time.Minute},
		"Conjur's clock ahead": {8 * time.Minute, 3 * time.Hour, 6 * time.Minute, 7 * time.Minute},
		"Conjur's clock late":  {8 * time.Minute, -3 * time.Hour, 6 * time.Minute, 7 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pipes := servertest.NewPipes()
				server := withAgent(conjurtest.NewServerAt(t, pipes))
				server.Life(tt.life)
				server.Skew(tt.skew)
				server.Put("db", "c4n4ry")
				p := storetest.Open(t, conjur.DriverDialing(pipes.Dial), config(metadata(server, nil)))
				want(t, p, providers.Query{Name: "db", Version: "1"}, "c4n4ry")
				time.Sleep(tt.good)
				want(t, p, providers.Query{Name: "db", Version: "1"}, "c4n4ry")
				if n := len(server.Calls("authn")); n != 1 {
					t.Errorf("%d logins after %v", n, tt.good)
				}
				time.Sleep(tt.late - tt.good)
				want(t, p, providers.Query{Name: "db", Version: "1"}, "c4n4ry")
				if n := len(server.Calls("authn")); n != 2 {
					t.Errorf("%d logins after %v", n, tt.late)
				}
			})
		})
	}
}

// newPods returns a fake in which alice and bob are hosts, each of which may read one variable, and see the other's.
func newPods(t *testing.T) *conjurtest.Server {
	t.Helper()
	server := conjurtest.NewServer(t)
	for _, account := range []string{"alice", "bob"} {
		host := "host/apps/shop/" + account
		server.Trust(storetest.Subject(account), host)
		server.Permit(host, "of-"+account, "read", "execute")
		server.Permit(host, "*", "read")
		server.Put("of-"+account, "c4n4ry-"+account)
	}
	return server
}

func openAsPod(t *testing.T, server *conjurtest.Server, more map[string]string) providers.Provider {
	t.Helper()
	pod := map[string]string{"identity": "pod", "serviceId": conjurtest.ServiceID, "login": "", "apiKey": ""}
	return open(t, config(metadata(server, storetest.With(pod, more))))
}

func TestPods(t *testing.T) {
	storetest.RunPods(t, func(t *testing.T) storetest.Pods {
		server := newPods(t)
		return storetest.Pods{
			Provider: openAsPod(t, server, nil), Issuer: server.Issuer, Audience: conjurtest.Audience,
			Denied:    "policy does not allow it (403)",
			Exchanges: func() int { return len(server.Calls("authn-jwt")) },
			Reads:     func() int { return len(server.Calls("read")) },
			Revoke:    server.Revoke, // and the read logs in again by itself
		}
	})
}

// TestPodsAtOnce: reads of two pods at the same time are no batch, and of many that are refused with one access token the first
// has it replaced.
func TestPodsAtOnce(t *testing.T) {
	server := newPods(t)
	p := openAsPod(t, server, nil)
	for range 2 {
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { want(t, p, as(server, "alice", "of-alice"), "c4n4ry-alice") })
			all.Go(func() { want(t, p, as(server, "bob", "of-bob"), "c4n4ry-bob") })
			all.Go(func() { wantKind(t, p, as(server, "alice", "of-bob"), providers.Denied, "(403)") })
		}
		all.Wait()
		server.Revoke()
	}
	if n := len(server.Calls("authn-jwt")); n != 4 {
		t.Errorf("%d exchanges, want two and two more", n)
	}
	for _, c := range server.Calls("batch") {
		if strings.Contains(c.Name, "of-alice") && c.Principal != "host/apps/shop/alice" {
			t.Errorf("%s read %s", c.Principal, c.Name)
		}
	}
	names, err := p.(providers.Lister).List(t.Context(), as(server, "alice", ""))
	if err != nil || len(names) != 1 || names[0] != "of-alice" {
		t.Errorf("alice lists %v, %v", names, err)
	}
}

// TestIdentities: who a pod is stands in its token, or in the manifest with the pod's names put in, which Conjur checks.
func TestIdentities(t *testing.T) {
	server := newPods(t)
	template := map[string]string{"login": "host/apps/{namespace}/{serviceAccount}"}
	want(t, openAsPod(t, server, template), as(server, "alice", "of-alice"), "c4n4ry-alice")
	if calls := server.Calls("authn-jwt"); calls[0].Name != "host/apps/shop/alice" {
		t.Errorf("login %q", calls[0].Name)
	}
	wantKind(t, openAsPod(t, server, map[string]string{"login": "host/apps/shop/bob"}), as(server, "alice", "of-bob"), providers.Denied, "for service account shop/alice as host/apps/shop/bob")
	wantKind(t, openAsPod(t, server, nil), as(server, "carol", "of-alice"), providers.Denied, "for service account shop/carol")
	wantKind(t, openAsPod(t, server, nil), server.Issuer.Query("of-alice", "shop", "alice", "vault"), providers.Invalid, "no token for audience")
	other := conjurtest.NewServer(t) // whose issuer is not trusted
	wantKind(t, openAsPod(t, server, nil), as(other, "alice", "of-alice"), providers.Denied, "(401)")
	q := server.Issuer.Query("of-alice", "shop", "alice", "https://conjur")
	wantKind(t, openAsPod(t, server, map[string]string{"tokenAudience": "https://conjur"}), q, providers.Denied, "(401)")
}
