package vault_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

// openPath mounts an engine and opens a store that may do everything there.
func openPath(t *testing.T, s *vaulttest.Server, kind string, prepare func(mount string)) (providers.Provider, *vaulttest.Proxy) {
	t.Helper()
	mount := s.Mount(t, kind)
	prepare(mount)
	proxy := vaulttest.NewProxy(t, s)
	return open(t, map[string]string{
		"vaultAddr": proxy.Addr, "caPem": proxy.CA, "enginePath": mount,
		"vaultToken": s.NewToken(t, "", s.Policy(t, mount+"/*", "read update create list")),
	}), proxy
}

func TestTransit(t *testing.T) {
	s := vaulttest.Shared(t)
	var ciphertext string
	p, _ := openPath(t, s, "transit", func(mount string) {
		s.Put(t, mount+"/keys/app", nil)
		ciphertext = s.Put(t, mount+"/encrypt/app", map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte("hello"))}).Data["ciphertext"].(string)
	})
	payload, err := p.Fetch(t.Context(), providers.Query{Name: "decrypt/app", Metadata: map[string]string{"ciphertext": ciphertext}})
	if err != nil {
		t.Fatal(err)
	}
	if got := reveal(payload.Fields)["plaintext"]; got != base64.StdEncoding.EncodeToString([]byte("hello")) || payload.Issued {
		t.Errorf("plaintext %q, issued %t", got, payload.Issued)
	}
	if got := fetch(t, p, providers.Query{Name: "keys/app"}); got["name"] != "app" || !strings.HasPrefix(got["keys"], "{") {
		t.Errorf("key %v", got)
	}
	wantKind(t, p, providers.Query{Name: "keys/app", Metadata: map[string]string{"method": "DELETE"}}, providers.Invalid, "read by GET or POST")
	wantKind(t, p, providers.Query{Name: "keys/app", Version: "1"}, providers.Invalid, "has none")
	wantKind(t, p, providers.Query{Name: "keys/none"}, providers.NotFound, "")
	wantKind(t, p, providers.Query{Name: "nowhere/x", Metadata: map[string]string{"a": "b"}}, providers.NotFound, "")
	if _, err := list(t, p); providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), "can't be listed") {
		t.Errorf("List: %v", err)
	}
}

func TestTOTP(t *testing.T) {
	s := vaulttest.Shared(t)
	p, _ := openPath(t, s, "totp", func(mount string) {
		s.Put(t, mount+"/keys/app", map[string]any{"generate": true, "issuer": "i", "account_name": "a"})
	})
	payload, err := p.Fetch(t.Context(), providers.Query{Name: "code/app"})
	if err != nil {
		t.Fatal(err)
	}
	if code := reveal(payload.Fields)["code"]; len(code) != 6 || payload.Issued || time.Until(payload.NotAfter) > time.Second {
		t.Errorf("code %q, valid until %v", code, payload.NotAfter)
	}
}

// TestPKI: each set of arguments is a certificate of its own; key, certificate, chain and CA are fields, and so are they
// together.
func TestPKI(t *testing.T) {
	s := vaulttest.Shared(t)
	p, _ := openPath(t, s, "pki", func(mount string) {
		s.Put(t, mount+"/root/generate/internal", map[string]any{"common_name": "ca.test", "ttl": "1h"})
		s.Put(t, mount+"/roles/web", map[string]any{"allowed_domains": "test", "allow_subdomains": true, "max_ttl": "30m"})
	})
	for _, name := range []string{"a.test", "b.test"} {
		payload, err := p.Fetch(t.Context(), providers.Query{Name: "issue/web", Metadata: map[string]string{"common_name": name, "ttl": "10m"}})
		if err != nil {
			t.Fatal(err)
		}
		f := reveal(payload.Fields)
		pair, err := tls.X509KeyPair([]byte(f["fullchain"]), []byte(f["private_key"]))
		if err != nil {
			t.Fatalf("fullchain and private_key: %v", err)
		}
		if _, err := tls.X509KeyPair([]byte(f["bundle"]), []byte(f["bundle"])); err != nil {
			t.Errorf("bundle: %v", err)
		}
		leaf := pair.Leaf
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(f["issuing_ca"])) || !roots.AppendCertsFromPEM([]byte(f["ca_chain"])) {
			t.Error("no CA in issuing_ca or ca_chain")
		}
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Error(err)
		}
		if block, rest := pem.Decode([]byte(f["ca_chain"])); block == nil || len(rest) > 0 {
			t.Errorf("ca_chain is not one block: %q", f["ca_chain"])
		}
		if off := payload.NotAfter.Sub(leaf.NotAfter).Abs(); !payload.Issued || payload.Lease != nil || off > 2*time.Second {
			t.Errorf("issued %t, valid until %v, want %v", payload.Issued, payload.NotAfter, leaf.NotAfter)
		}
	}
	wantKind(t, p, providers.Query{Name: "issue/web", Metadata: map[string]string{"common_name": "other.example"}}, providers.Invalid, "malformed")
}

// TestClockSkew: how long a certificate lives is told by Vault's clock, and counted by ours.
func TestClockSkew(t *testing.T) {
	s := vaulttest.Shared(t)
	p, proxy := openPath(t, s, "pki", func(string) {})
	for _, skew := range []time.Duration{-5 * time.Hour, 0, 5 * time.Hour} {
		proxy.Break(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/issue/web") {
				return false
			}
			there := time.Now().Add(skew)
			w.Header().Set("Date", there.UTC().Format(http.TimeFormat))
			fmt.Fprintf(w, `{"data":{"certificate":"c","private_key":"k","expiration":%d}}`, there.Add(10*time.Minute).Unix())
			return true
		})
		payload, err := p.Fetch(t.Context(), providers.Query{Name: "issue/web", Metadata: map[string]string{"common_name": fmt.Sprint(skew)}})
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(payload.NotAfter); left < 9*time.Minute || left > 11*time.Minute {
			t.Errorf("Vault's clock is off by %v: valid for %v", skew, left)
		}
	}
}

// TestStaticRole: a password that Vault rotates is valid until it does.
func TestStaticRole(t *testing.T) {
	s := vaulttest.Shared(t)
	pg := vaulttest.NewPostgres(t)
	mount := pg.Database(t, s)
	s.Put(t, mount+"/roles/maker", map[string]any{"db_name": "pg", "creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'`, "default_ttl": "1h"})
	made, err := s.Logical().Read(mount + "/creds/maker")
	if err != nil {
		t.Fatal(err)
	}
	user := made.Data["username"].(string)
	s.Put(t, mount+"/static-roles/app", map[string]any{"db_name": "pg", "username": user, "rotation_period": "6s"})
	p := open(t, map[string]string{"vaultAddr": s.Addr, "caPem": s.CA, "enginePath": mount, "vaultToken": s.NewToken(t, "", s.Policy(t, mount+"/*", "read"))})
	payload, err := p.Fetch(t.Context(), providers.Query{Name: "static-creds/app"})
	if err != nil {
		t.Fatal(err)
	}
	left := time.Until(payload.NotAfter)
	if payload.Issued || payload.Lease != nil || left > 6*time.Second || left < -time.Second {
		t.Errorf("issued %t, lease %v, left %v", payload.Issued, payload.Lease, left)
	}
	first := reveal(payload.Fields)
	if err := pg.Login(user, first["password"]); err != nil {
		t.Error(err)
	}
	eventually(t, "another password", func() bool {
		return fetch(t, p, providers.Query{Name: "static-creds/app"})["password"] != first["password"]
	})
	if time.Now().Before(payload.NotAfter.Add(-time.Second)) {
		t.Errorf("it was rotated %v before its end", time.Until(payload.NotAfter))
	}
	if err := pg.Login(user, first["password"]); err == nil {
		t.Error("the old password works")
	}
}

// role writes a role of dynamic credentials.
func role(t *testing.T, s *vaulttest.Server, mount, name, ttl, longest string) {
	t.Helper()
	s.Put(t, mount+"/roles/"+name, map[string]any{
		"db_name": "pg", "creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
		"default_ttl": ttl, "max_ttl": longest,
	})
}

func credentials(t *testing.T, fields map[string]string) string {
	t.Helper()
	if fields["username"] == "" || fields["password"] == "" {
		t.Fatalf("%d fields, without a user or password", len(fields))
	}
	return fmt.Sprint(fields["username"])
}
