package vault_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// resolver puts a store behind a resolver that everybody may read from.
func resolver(t *testing.T, p providers.Provider, settings resolve.Settings) *resolve.Resolver {
	t.Helper()
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "vault", Provider: p, Settings: settings})
	return r
}

func request(t *testing.T, name string, id scope.Identity) resolve.Request {
	t.Helper()
	p, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "vault"}}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := p.Authorize(id, scope.Ref{Store: "vault", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return resolve.Request{Grant: g, Origin: "volume", MaxAge: time.Nanosecond} // the cache before the leases is not the subject here
}

func resolved(t *testing.T, r *resolve.Resolver, req resolve.Request) (map[string]string, resolve.Result) {
	t.Helper()
	res, err := r.Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return reveal(res.Fields), res
}

// database is a real database behind a store with an AppRole login.
type database struct {
	*kv
	pg    *vaulttest.Postgres
	pairs map[string]string
}

func newDatabase(t *testing.T, ttl, longest string, login map[string]any) *database {
	t.Helper()
	k := authKV(t)
	pg := vaulttest.NewPostgres(t)
	mount := pg.Database(t, k.Server)
	role(t, k.Server, mount, "app", ttl, longest)
	k.PutPolicy(t, k.policy, mount+"/creds/*", "read", "sys/leases/revoke", "update")
	pairs, _ := k.approle(t, login)
	return &database{kv: k, pg: pg, pairs: merged(pairs, map[string]string{"enginePath": mount})}
}

// TestDynamicCredentials follows credentials of a real database through their life: shared, renewed, replaced before they
// end while the old ones still work, and revoked.
func TestDynamicCredentials(t *testing.T) {
	d := newDatabase(t, "6s", "14s", nil)
	r := resolver(t, open(t, d.pairs), resolve.Settings{})
	req := request(t, "creds/app", scope.Identity{})
	first, res := resolved(t, r, req)
	user := credentials(t, first)
	if res.Lease == nil || res.Lease.ID == "" || !res.Issued {
		t.Fatalf("lease %+v", res.Lease)
	}
	if err := d.pg.Login(user, first["password"]); err != nil {
		t.Fatal(err)
	}
	d.Seen()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if again, _ := resolved(t, r, req); again["username"] != user {
				t.Error("another reader got another user")
			}
		})
	}
	wg.Wait()
	if seen := d.Seen(); len(seen) > 0 {
		t.Errorf("20 more readers cost %q", seen)
	}

	begun, renewals := time.Now(), 0
	var second map[string]string
	eventually(t, "new credentials", func() bool {
		second, _ = resolved(t, r, req)
		renewals += d.count("/renew") // of the lease
		return second["username"] != user
	})
	if lived := time.Since(begun); lived < 7*time.Second || renewals == 0 {
		t.Errorf("replaced after %v and %d renewals", lived, renewals)
	}
	for _, fields := range []map[string]string{first, second} {
		if err := d.pg.Login(fields["username"], fields["password"]); err != nil {
			t.Errorf("both have to work for a while: %v", err)
		}
	}

	r.Release(req)
	eventually(t, "both are revoked", func() bool {
		return d.pg.Login(first["username"], first["password"]) != nil && d.pg.Login(second["username"], second["password"]) != nil
	})
}

// TestOwnCredentials: whoever wants his own does not share, and what the API gave out is not revoked with a volume.
func TestOwnCredentials(t *testing.T) {
	d := newDatabase(t, "1h", "2h", nil)
	r := resolver(t, open(t, d.pairs), resolve.Settings{})
	shared := request(t, "creds/app", scope.Identity{})
	own := shared
	own.Own = "volume-1"
	api := shared
	api.Origin = "api"
	a, _ := resolved(t, r, shared)
	b, _ := resolved(t, r, own)
	c, _ := resolved(t, r, api)
	if a["username"] == b["username"] || a["username"] != c["username"] {
		t.Errorf("users %q, %q, %q", a["username"], b["username"], c["username"])
	}
	r.Release(own)
	eventually(t, "own credentials revoked", func() bool { return d.pg.Login(b["username"], b["password"]) != nil })
	r.Release(shared)
	again, _ := resolved(t, r, shared)
	if again["username"] != a["username"] || d.pg.Login(a["username"], a["password"]) != nil {
		t.Error("what a caller of the API has was revoked")
	}
}

// TestAdopted: another process goes on with credentials of which it only knows what a volume does.
func TestAdopted(t *testing.T) {
	d := newDatabase(t, "1h", "2h", map[string]any{"token_ttl": "1h"})
	first := resolver(t, open(t, d.pairs), resolve.Settings{})
	req := request(t, "creds/app", scope.Identity{})
	fields, res := resolved(t, first, req)
	if left := time.Until(res.Lease.Alone); left <= 0 || left > time.Hour {
		t.Errorf("the lease ends with its token in %v", left)
	}
	first.Close()

	second := resolver(t, open(t, d.pairs), resolve.Settings{})
	d.Seen()
	if err := second.Adopt(t.Context(), req, res.Payload, res.FetchedAt); err != nil {
		t.Fatal(err)
	}
	again, _ := resolved(t, second, req)
	if again["username"] != fields["username"] {
		t.Error("credentials were issued again")
	}
	for _, seen := range d.Seen() {
		if strings.Contains(seen, "/creds/") {
			t.Errorf("asked for credentials: %s", seen)
		}
	}

	if err := d.Sys().Revoke(res.Lease.ID); err != nil {
		t.Fatal(err)
	}
	third := resolver(t, open(t, d.pairs), resolve.Settings{})
	if err := third.Adopt(t.Context(), req, res.Payload, res.FetchedAt); providers.KindOf(err) != providers.NotFound {
		t.Errorf("adopt what was revoked: %v", err)
	}
}

// TestTokenLivesWithItsLeases: the lease outlives many lives of its token, which nobody reads with meanwhile.
func TestTokenLivesWithItsLeases(t *testing.T) {
	d := newDatabase(t, "1h", "2h", map[string]any{"token_ttl": "3s", "token_max_ttl": "1h"})
	r := resolver(t, open(t, d.pairs), resolve.Settings{})
	fields, _ := resolved(t, r, request(t, "creds/app", scope.Identity{}))
	begun := time.Now()
	eventually(t, "two lives of the token", func() bool { return time.Since(begun) > 7*time.Second })
	if err := d.pg.Login(fields["username"], fields["password"]); err != nil {
		t.Errorf("the lease ended with its token: %v", err)
	}
}

// TestCertificateIsKept: one certificate for all reads, until it is near its end.
func TestCertificateIsKept(t *testing.T) {
	s := vaulttest.Shared(t)
	p, proxy := openPath(t, s, "pki", func(mount string) {
		s.Put(t, mount+"/root/generate/internal", map[string]any{"common_name": "ca.test", "ttl": "1h"})
		s.Put(t, mount+"/roles/web", map[string]any{"allowed_domains": "test", "allow_subdomains": true, "max_ttl": "30m", "not_before_duration": "0s"})
	})
	r := resolver(t, p, resolve.Settings{})
	req := request(t, "issue/web", scope.Identity{})
	req.Metadata = map[string]string{"common_name": "a.test", "ttl": "6s"}
	first, res := resolved(t, r, req)
	proxy.Seen()
	begun := time.Now()
	eventually(t, "another certificate", func() bool {
		again, _ := resolved(t, r, req)
		return again["serial_number"] != first["serial_number"]
	})
	if lived := time.Since(begun); lived < 2*time.Second || !time.Now().Before(res.NotAfter) {
		t.Errorf("made again after %v, %v before its end", lived, time.Until(res.NotAfter))
	}
	if seen := proxy.Seen(); len(seen) != 1 {
		t.Errorf("requests: %q", seen)
	}
	other := req
	other.Metadata = map[string]string{"common_name": "b.test", "ttl": "6s"}
	if fields, _ := resolved(t, r, other); fields["certificate"] == first["certificate"] {
		t.Error("other arguments got the same certificate")
	}
}

// TestTokenFileReplaced: a lease of the token before is known to end with it.
func TestTokenFileReplaced(t *testing.T) {
	s := vaulttest.Shared(t)
	mount := s.Mount(t, "pki")
	s.Put(t, mount+"/root/generate/internal", map[string]any{"common_name": "ca.test", "ttl": "24h"})
	s.Put(t, mount+"/roles/web", map[string]any{"allowed_domains": "test", "allow_subdomains": true, "max_ttl": "10h", "generate_lease": true})
	policy := s.Policy(t, mount+"/*", "update")
	path := writeFile(t, s.NewToken(t, "1h", policy))
	p := open(t, map[string]string{"vaultAddr": s.Addr, "caPem": s.CA, "enginePath": mount, "vaultTokenMountPath": path})
	q := providers.Query{Name: "issue/web", Metadata: map[string]string{"common_name": "a.test", "ttl": "5h"}}
	payload, err := p.Fetch(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, ends time.Time) {
		t.Helper()
		if left := time.Until(ends); left < 50*time.Minute || left > time.Hour {
			t.Errorf("%s, the lease ends with its token in %v", when, left)
		}
	}
	check("issued", payload.Lease.Alone)
	for _, when := range []string{"with the token in the file", "with another there"} {
		l, err := p.(providers.Issuer).Renew(t.Context(), q, *payload.Lease)
		if err != nil {
			t.Fatal(err)
		}
		check(when, l.Alone)
		if err := os.WriteFile(path, []byte(s.NewToken(t, "10h", policy)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
