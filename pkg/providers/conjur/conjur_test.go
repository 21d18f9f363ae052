package conjur_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/conjur"
	"github.com/keywell/keywell/pkg/providers/conjur/conjurtest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := newServer(t)
			cfg := config(metadata(server, nil))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, cfg),
				Put:      func(name string, fields map[string]string) string { return server.Put(name, fields[name]) },
				Delete:   server.Delete,
				Faults:   faults(server),
				Hang:     func() { server.Fail(func(servertest.Call) *servertest.Fault { return &servertest.Fault{Hang: true} }) },
			}
		},
		Binary:         true,
		NoEmpty:        true,
		Lists:          true,
		PageSize:       100,
		UnknownVersion: "1000",
		VersionsUntold: true,
		RetryAfter:     3 * time.Second,
	})
}

func faults(server *conjurtest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, f := range map[providers.Kind]servertest.Fault{
		providers.NotFound: {Status: 404}, providers.Denied: {Status: 403}, providers.Invalid: {Status: 422}, providers.Unavailable: {Status: 503},
		providers.Throttled: {Status: 429, Header: http.Header{"Retry-After": {"3"}}},
	} {
		all[kind] = func(name string) { server.FailName(name, f) }
	}
	return all
}

// TestNames reads variables whose IDs have to be escaped, one by one and in a batch.
func TestNames(t *testing.T) {
	server, p := newStore(t, nil)
	names := []string{
		"prod/db/password", "my app/db password", "a+b&c=d?e#f", "50%/x", "%2e%2e/x", "quoted \"'", "ü/世界", "prod:db:x", "myorg:variable:x", "with,comma", "~user/@host;v=1",
	}
	for _, name := range names {
		server.Put(name, "c4n4ry of "+name)
	}
	for _, name := range names {
		want(t, p, providers.Query{Name: name}, "c4n4ry of "+name)
		want(t, p, providers.Query{Name: name, Version: "1"}, "c4n4ry of "+name)
	}
	read(t, p, names)
	for _, c := range server.Calls("batch") {
		if strings.Contains(c.Name, "with") {
			t.Errorf("a name with a comma is in the batch %q", c.Name)
		}
	}
	listed, err := p.(providers.Lister).List(t.Context(), providers.Query{})
	slices.Sort(names)
	if diff := cmp.Diff(names, listed); err != nil || diff != "" {
		t.Errorf("error %v, mismatch (-want +got):\n%s", err, diff)
	}
}

// read reads names at the same time, each of which has to have its own value.
func read(t *testing.T, p providers.Provider, names []string) {
	t.Helper()
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() { want(t, p, providers.Query{Name: name}, "c4n4ry of "+name) })
	}
	all.Wait()
}

// TestBatches counts the calls for many reads at once: also if one name spoils the batch, which it does once.
func TestBatches(t *testing.T) {
	server, p := newStore(t, nil)
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("prod/app-%02d/password", i))
		server.Put(names[i], "c4n4ry of "+names[i])
	}
	server.Put("binary", "c4n4ry of binary\x00\xff\xfe"+strings.Repeat("x", 200))
	calls := func() (batches, reads int) { return len(server.Calls("batch")), len(server.Calls("read")) }

	read(t, p, names)
	batches, reads := calls()
	if batches == 0 || batches+reads > 10 { // more than one where this machine is slow
		t.Errorf("%d batches and %d single reads for 50 reads at once", batches, reads)
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { wantKind(t, p, providers.Query{Name: "missing"}, providers.NotFound, "") })
		all.Go(func() {
			want(t, p, providers.Query{Name: "binary"}, "c4n4ry of binary\x00\xff\xfe"+strings.Repeat("x", 200))
		})
		all.Go(func() { read(t, p, names[:20]) })
		all.Wait()
		before, _ := calls()
		_, reads = calls()
		all.Go(func() { wantKind(t, p, providers.Query{Name: "missing"}, providers.NotFound, "") })
		all.Go(func() { read(t, p, names[:20]) })
		all.Wait()
		after, readsAfter := calls()
		if after == before || readsAfter-reads > 10 {
			t.Errorf("with a name that is known to be missing: %d batches and %d single reads", after-before, readsAfter-reads)
		}
	}
	server.Put("missing", "c4n4ry of missing")
	read(t, p, append(names[:20:20], "missing"))
}

// TestLongBatch reads more than fits into a query.
func TestLongBatch(t *testing.T) {
	server, p := newStore(t, nil)
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprint(i, strings.Repeat("/ü", 150)))
		server.Put(names[i], "c4n4ry of "+names[i])
	}
	read(t, p, names)
	if n := len(server.Calls("batch")); n < 2 {
		t.Errorf("%d batches", n)
	}
}

func TestVersions(t *testing.T) {
	server, p := newStore(t, nil)
	for i := range 22 {
		server.Put("db", fmt.Sprint("c4n4ry-", i+1))
	}
	want(t, p, providers.Query{Name: "db", Version: "21"}, "c4n4ry-21")
	wantKind(t, p, providers.Query{Name: "db", Version: "1"}, providers.NotFound, "version 1") // twenty are kept
	for _, version := range []string{"0", "-1", "+1", "01", "x", "1.0", "99999999999999999999", "1&x=y"} {
		wantKind(t, p, providers.Query{Name: "db", Version: version}, providers.Invalid, "numbers from 1 on")
	}
	wantKind(t, p, providers.Query{Name: "db", Stage: "x"}, providers.Invalid, "no stages")
}

func TestFields(t *testing.T) {
	server, p := newStore(t, map[string]string{"multipleKeyValuesPerSecret": "true", "nestedSeparator": "."})
	server.Put("db", `{"user": "c4n4ry", "port": 12345678901234567890, "hosts": [{"name": "a"}]}`)
	server.Put("plain", "c4n4ry")
	got, _, err := storetest.Fetch(t, p, providers.Query{Name: "db"})
	if diff := cmp.Diff(map[string]string{"user": "c4n4ry", "port": "12345678901234567890", "hosts.0.name": "a"}, got); err != nil || diff != "" {
		t.Errorf("error %v, mismatch (-want +got):\n%s", err, diff)
	}
	want(t, p, providers.Query{Name: "plain"}, "c4n4ry")
}

// TestListsWhatMayBeRead: what only may be updated, or has no value, is not listed; and who may read is asked once for all
// that the same roles may read.
func TestListsWhatMayBeRead(t *testing.T) {
	server := conjurtest.NewServer(t)
	server.Member("users", agent)
	server.Member("managers", agent)
	server.Permit("users", "app/*", "read", "execute")
	server.Permit("managers", "app/*", "update")
	server.Permit("managers", "only-update/*", "update")
	server.Permit("others", "only-update/*", "read", "execute")
	server.Permit("others", "hidden/*", "read", "execute")
	server.Declare("app/empty")
	var names []string
	for i := range 120 {
		names = append(names, fmt.Sprintf("app/%03d", i))
		for _, name := range []string{names[i], fmt.Sprintf("only-update/%03d", i), fmt.Sprintf("hidden/%03d", i)} {
			server.Put(name, "c4n4ry")
		}
	}
	p := open(t, config(metadata(server, nil)))
	for range 2 {
		got, err := p.(providers.Lister).List(t.Context(), providers.Query{})
		if diff := cmp.Diff(names, got); err != nil || diff != "" {
			t.Fatalf("error %v, mismatch (-want +got):\n%s", err, diff)
		}
	}
	if pages, checks := len(server.Calls("list")), len(server.Calls("check")); pages != 6 || checks != 2 {
		t.Errorf("%d pages and %d questions for two listings of 241 variables, want 6 and 2", pages, checks)
	}
	wantKind(t, p, providers.Query{Name: "only-update/001"}, providers.Denied, "policy does not allow it (403)")
	wantKind(t, p, providers.Query{Name: "hidden/001"}, providers.NotFound, "does not show it (404)")
	wantKind(t, p, providers.Query{Name: "app/empty"}, providers.NotFound, "")
}

func TestErrors(t *testing.T) {
	server, p := newStore(t, nil)
	server.Put("db", "c4n4ry")
	server.Put("other", "c4n4ry")
	want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	retry := http.Header{"Retry-After": {"7"}}
	for name, tt := range map[string]struct {
		fault servertest.Fault
		kind  providers.Kind
		text  string
	}{
		"half a body": {servertest.Fault{}, providers.Unavailable, "EOF"},
		"400":         {servertest.Fault{Status: 400}, providers.Invalid, "(400)"},
		"429":         {servertest.Fault{Status: 429, Header: retry}, providers.Throttled, "fewer requests"},
		"500":         {servertest.Fault{Status: 500}, providers.Unavailable, "(500)"},
		"503":         {servertest.Fault{Status: 503, Header: retry}, providers.Unavailable, "(503)"},
		"redirect":    {servertest.Fault{Status: 302, Header: http.Header{"Location": {"https://evil.invalid/"}}}, providers.Unavailable, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			server.Fail(func(c servertest.Call) *servertest.Fault {
				if c.Action == "authn" {
					return nil
				}
				return &tt.fault
			})
			var all sync.WaitGroup
			for _, q := range []providers.Query{{Name: "db"}, {Name: "other"}, {Name: "db", Version: "1"}} { // two may be a batch
				all.Go(func() { wantKind(t, p, q, tt.kind, tt.text) })
			}
			all.Wait()
			_, err := p.(providers.Lister).List(t.Context(), providers.Query{})
			if providers.KindOf(err) != tt.kind || tt.fault.Header.Get("Retry-After") != "" && providers.RetryAfter(err) != 7*time.Second {
				t.Errorf("List: %v, RetryAfter %v", err, providers.RetryAfter(err))
			}
		})
	}
	wantKind(t, open(t, config(metadata(server, map[string]string{"applianceUrl": "https://127.0.0.1:1"}))), providers.Query{Name: "db"}, providers.Unavailable, "refused")
}

func TestTrust(t *testing.T) {
	server, foreign := newServer(t), otherCA(t)
	server.Put("db", "c4n4ry")
	other := filepath.Join(t.TempDir(), "ca.pem")
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, server.CA)
	write(t, other, foreign)
	want(t, open(t, config(metadata(server, map[string]string{"caCert": file}))), providers.Query{Name: "db"}, "c4n4ry")
	for _, ca := range []string{foreign, other, ""} {
		wantKind(t, open(t, config(metadata(server, map[string]string{"caCert": ca}))), providers.Query{Name: "db"}, providers.Unavailable, "certificate")
	}
	if n := len(server.Calls("authn")); n != 1 {
		t.Errorf("%d logins: an API key was sent to a server that is not trusted", n)
	}
}

// TestCAFileIsReadAgain replaces the CA's file: the next connection is verified against it.
func TestCAFileIsReadAgain(t *testing.T) {
	server := newServer(t)
	server.Put("db", "c4n4ry")
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, otherCA(t))
	p := open(t, config(metadata(server, map[string]string{"caCert": file})))
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "certificate")
	write(t, file, server.CA)
	want(t, p, providers.Query{Name: "db"}, "c4n4ry")
}

func TestManifestIsRefused(t *testing.T) {
	good := map[string]string{"applianceUrl": "https://conjur.invalid", "account": "myorg", "login": "host/x", "apiKey": "c4n4ry"}
	jwt := map[string]string{"serviceId": "cluster", "apiKey": ""}
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"no URL":               {map[string]string{"applianceUrl": ""}, `"applianceUrl" is required`},
		"no account":           {map[string]string{"account": ""}, `"account" is required`},
		"account":              {map[string]string{"account": "a:b"}, `"account" is not the name`},
		"no scheme":            {map[string]string{"applianceUrl": "conjur.invalid"}, `"applianceUrl" is not a URL`},
		"user in the URL":      {map[string]string{"applianceUrl": "https://u:p@conjur.invalid"}, `"applianceUrl" has more than`},
		"http":                 {map[string]string{"applianceUrl": "http://conjur.invalid"}, `"applianceUrl" is not https`},
		"no login":             {map[string]string{"login": ""}, `"login" is required`},
		"no key":               {map[string]string{"apiKey": ""}, `"apiKey" or apiKeyPath is required`},
		"two keys":             {map[string]string{"apiKeyPath": "/x"}, `"apiKey" or apiKeyPath is required`},
		"method":               {map[string]string{"authnType": "authn-oidc"}, `"authnType" is neither authn nor authn-jwt`},
		"jwt, no service":      {map[string]string{"authnType": "jwt", "apiKey": ""}, `"serviceId" is required`},
		"jwt with a key":       {map[string]string{"serviceId": "cluster"}, `"apiKey" is not used`},
		"pod's name for agent": {map[string]string{"serviceId": "cluster", "apiKey": "", "login": "host/{namespace}"}, `"login" names a pod's namespace`},
		"pod with a key":       {map[string]string{"identity": "pod"}, `"serviceId" is required with identity: pod`},
		"CA in PEM":            {map[string]string{"caCert": "-----BEGIN CERTIFICATE-----"}, `"caCert" holds no certificate`},
		"CA file":              {map[string]string{"caCert": "/nonexistent"}, `"caCert" is neither PEM nor a file`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := conjur.Driver().Open(t.Context(), config(storetest.With(good, tt.metadata)))
			if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want Invalid with %q", err, tt.text)
			}
		})
	}
	for name, more := range map[string]map[string]string{
		"http on loopback":   {"applianceUrl": "http://127.0.0.1:1"},
		"http on loopback 6": {"applianceUrl": "http://[::1]:1/"},
		"http, allowed":      {"applianceUrl": "http://conjur.invalid", "allowHttp": "true"},
		"jwt":                jwt,
		".conjurrc":          {"applianceUrl": "", "appliance_url": "https://conjur.invalid/api", "authn_type": "jwt", "service_id": "cluster", "apiKey": ""},
	} {
		p, err := conjur.Driver().Open(t.Context(), config(storetest.With(good, more)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = p.Close()
	}
}
