package vault_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

// TestStatuses checks what each status of Vault means, and that nothing of the answer's text gets out.
func TestStatuses(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	p := open(t, k.pairs)
	fetch(t, p, providers.Query{Name: "db"})
	for status, want := range map[int]struct {
		kind providers.Kind
		text string
	}{
		400: {providers.Invalid, "malformed"}, 403: {providers.Denied, "policy"}, 404: {providers.NotFound, "nothing there"},
		405: {providers.Invalid, "not supported"}, 412: {providers.Unavailable, "has not caught up"}, 429: {providers.Throttled, "fewer requests"},
		472: {providers.Unavailable, "standby"}, 473: {providers.Unavailable, "standby"}, 500: {providers.Unavailable, "failed"},
		502: {providers.Unavailable, "failed"}, 503: {providers.Unavailable, "sealed"},
	} {
		k.Break(answer("/db", status, "Retry-After", "11"))
		_, err := p.Fetch(t.Context(), providers.Query{Name: "db"})
		if providers.KindOf(err) != want.kind || !strings.Contains(err.Error(), want.text) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("status %d: %v, of kind %v", status, err, providers.KindOf(err))
		}
		if providers.RetryAfter(err) != 11*time.Second {
			t.Errorf("status %d: RetryAfter %v", status, providers.RetryAfter(err))
		}
	}
	k.Break(answer("/db", http.StatusTooManyRequests, "Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)))
	_, err := p.Fetch(t.Context(), providers.Query{Name: "db"})
	if after := providers.RetryAfter(err); after < 50*time.Second || after > time.Minute {
		t.Errorf("RetryAfter of a date: %v", after)
	}
	k.Break(nil)
	fetch(t, p, providers.Query{Name: "db"})
}

// TestAnswersThatAreNotVaults: a proxy's page, or half an answer, is no secret and no "not found".
func TestAnswersThatAreNotVaults(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	p := open(t, k.pairs)
	fetch(t, p, providers.Query{Name: "db"})
	for _, body := range []string{"<html>c4n4ry</html>", `{"data":`, `[]`, `{"data":{"data":"c4n4ry","metadata":{"version":1}}}`} {
		k.Break(func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte(body))
			return true
		})
		_, err := p.Fetch(t.Context(), providers.Query{Name: "db"})
		if providers.KindOf(err) != providers.Unavailable || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%s: %v, of kind %v", body, err, providers.KindOf(err))
		}
	}
}

// TestRedirects: a token goes to no other host. The other host here would take it.
func TestRedirects(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	var visits int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits++ }))
	defer other.Close()
	p := open(t, k.pairs)
	for _, to := range []string{other.URL + "/v1/x", "https://" + strings.TrimPrefix(other.URL, "http://") + "/v1/x", strings.Replace(k.Proxy.Addr, "https", "http", 1), ""} {
		for _, status := range []int{301, 302, 307, 308} {
			k.Break(answer("/db", status, "Location", to))
			wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "redirects to")
		}
	}
	if visits > 0 {
		t.Errorf("the other host was asked %d times", visits)
	}
	k.Break(func(w http.ResponseWriter, r *http.Request) bool { // the same host is Vault's own
		if r.URL.RawQuery != "" {
			return false
		}
		w.Header().Set("Location", r.URL.Path+"?version=1")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	})
	if got := fetch(t, p, providers.Query{Name: "db"}); got["k"] != "v" {
		t.Errorf("read %v", got)
	}
	k.Break(func(w http.ResponseWriter, r *http.Request) bool { // but not for ever
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	})
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "redirects to")
}

func TestSealed(t *testing.T) {
	k := newKV(t, vaulttest.Own(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	p := open(t, k.pairs)
	fetch(t, p, providers.Query{Name: "db"})
	if err := k.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "sealed")
	wantKind(t, open(t, k.pairs), providers.Query{Name: "db"}, providers.Unavailable, "sealed")
	k.Unseal(t)
	fetch(t, p, providers.Query{Name: "db"})
}

// TestConsistency: what a cluster said about its state goes with every later request.
func TestConsistency(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	p := open(t, k.pairs)
	const state = "djE6OTZjMmFkMDQtZTUyYi0xMDg5LWY2OWItZTBlMTE2ODRkOGVmOjE6MDrWmW2ka1RxRjTZXHgzJzZ1aWZ5X1ZhdWx0"
	var asked []string
	k.Break(func(w http.ResponseWriter, r *http.Request) bool {
		asked = append(asked, r.Header.Get("X-Vault-Index"))
		w.Header().Set("X-Vault-Index", state)
		return false
	})
	fetch(t, p, providers.Query{Name: "db"})
	asked = nil
	fetch(t, p, providers.Query{Name: "db"})
	if len(asked) != 1 || asked[0] == "" {
		t.Errorf("requests after an answer with an index carry %q", asked)
	}
}

func TestTLS(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	write := func(pem string) {
		if err := os.WriteFile(file, []byte(pem), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(k.Proxy.CA)
	for name, tt := range map[string]struct {
		pairs map[string]string
		fails bool
	}{
		"inline":              {map[string]string{"caPem": k.Proxy.CA}, false},
		"file":                {map[string]string{"caCert": file}, false},
		"directory":           {map[string]string{"caPath": dir}, false},
		"inline comes first":  {map[string]string{"caPem": k.Proxy.CA, "caPath": "/nowhere", "caCert": "/nowhere"}, false},
		"directory is second": {map[string]string{"caPath": dir, "caCert": "/nowhere"}, false},
		"system":              {map[string]string{}, true},
		"another CA":          {map[string]string{"caPem": k.Server.CA}, true},
		"no check":            {map[string]string{"skipVerify": "true"}, false},
		"no other spelling":   {map[string]string{"skipVerify": "True"}, true},
		"name":                {map[string]string{"caCert": file, "tlsServerName": "example.com"}, false}, // httptest's certificate
		"another name":        {map[string]string{"caCert": file, "tlsServerName": "vault.example"}, true},
		"another name inline": {map[string]string{"caPem": k.Proxy.CA, "tlsServerName": "vault.example"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, merged(k.pairs, map[string]string{"caPem": ""}, tt.pairs))
			if tt.fails {
				wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "certificate")
			} else {
				fetch(t, p, providers.Query{Name: "db"})
			}
		})
	}
}

// TestCARotates: a CA file that is replaced is trusted from the next connection on, and the old one no longer.
func TestCARotates(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(pem string) {
		if err := os.WriteFile(file, []byte(pem), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(k.Server.CA)
	p := open(t, merged(k.pairs, map[string]string{"caPem": "", "caCert": file}))
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "certificate")
	write(k.Proxy.CA)
	fetch(t, p, providers.Query{Name: "db"})
	write(k.Server.CA)
	k.Disconnect()
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "")
}
