package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

const bulkPath = "/v1.0/secrets/vault/bulk"

func TestBulk(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"user": "app", "password": "<x>"})
	m.Put("a/b", map[string]string{"a/b": "1"})
	m.Put("empty", map[string]string{})
	m.Put("hidden", map[string]string{"hidden": "x"})
	m.PutPayload("prod", "other", providertest.Payload(map[string]string{"other": "2"}))
	f := newFixture(t).withStore("vault", m)
	f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"hidden"}}}
	f.setPolicy()
	srv := f.run()

	got := srv.raw(t, "GET "+bulkPath+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	want := answer("200 OK", `{"a/b":{"a/b":"1"},"db":{"password":"\u003cx\u003e","user":"app"},"empty":{}}`+"\n",
		"Content-Type: application/json\r\n", zeroTrace, "Etag: \"*\"\r\n")
	if diff := cmp.Diff(want, sortHeader(got)); diff != "" {
		t.Errorf("HTTP (-want +got):\n%s", diff)
	}
	if n := m.Fetches("hidden"); n != 0 {
		t.Errorf("a secret that the policy hides was fetched %d times", n)
	}
	got = srv.raw(t, "GET "+bulkPath+"/?metadata.namespace=prod HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if !strings.HasSuffix(got, `{"other":{"other":"2"}}`+"\n") {
		t.Errorf("another namespace: %s", got)
	}

	client, _ := srv.client(t)
	for range 2 { // the second is served from the encoded answer
		answer, err := client.GetBulkSecret(t.Context(), &runtimev1pb.GetBulkSecretRequest{StoreName: "vault"})
		if err != nil {
			t.Fatal(err)
		}
		want := &runtimev1pb.GetBulkSecretResponse{Data: map[string]*runtimev1pb.SecretResponse{
			"a/b":   {Secrets: map[string]string{"a/b": "1"}},
			"db":    {Secrets: map[string]string{"user": "app", "password": "<x>"}},
			"empty": {},
		}}
		if diff := cmp.Diff(want, answer, protocmp.Transform()); diff != "" {
			t.Errorf("gRPC (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]int{3}, f.audit.bulks); diff != "" {
		t.Errorf("audited answers from the cache (-want +got):\n%s", diff)
	}
}

func TestBulkOfNothing(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("hidden", map[string]string{"hidden": "x"})
	f := newFixture(t).withStore("vault", m)
	f.rules.Scopes = []scope.StoreScope{{Store: "vault", Default: "deny"}}
	f.setPolicy()
	h := api.New(f.options).Handler()
	if w := do(h, "GET", bulkPath); w.Code != 200 || w.Body.String() != "{}\n" {
		t.Errorf("all filtered: status %d: %s", w.Code, w.Body)
	}

	// An AccessPolicy that allows the caller nothing at all is said so, and costs no listing.
	f.rules.Policies = []scope.AccessRule{{Subjects: []scope.Subject{{AppID: "other"}}, Stores: []string{"*"}, Allow: []string{"*"}}}
	f.setPolicy()
	lists := m.Lists()
	w := do(h, "GET", bulkPath)
	want := `{"errorCode":"ERR_PERMISSION_DENIED","message":"access denied by policy to list the secrets of \"vault\"",` + details("vault", "SECRET_DENIED", "") + "]}"
	if w.Code != 403 || w.Body.String() != want {
		t.Errorf("nothing granted: status %d: %s", w.Code, w.Body)
	}
	if m.Lists() != lists || m.Fetches("") != 0 {
		t.Errorf("the store was asked: %d more lists, %d fetches", m.Lists()-lists, m.Fetches(""))
	}
	if diff := cmp.Diff([]string{"api checkout vault "}, f.audit.denied); diff != "" {
		t.Errorf("audited denials (-want +got):\n%s", diff)
	}
}

// plain hides what else a provider can do.
type plain struct{ providers.Provider }

func TestBulkWithoutLister(t *testing.T) {
	f := newFixture(t)
	f.with(api.Store{Name: "vault", Open: true}, plain{providertest.NewMemory().Provider()})
	w := do(api.New(f.options).Handler(), "GET", bulkPath)
	if w.Code != 500 || !strings.HasPrefix(w.Body.String(), `{"errorCode":"ERR_SECRET_GET","message":"failed getting secrets from secret store vault: `) ||
		!strings.Contains(w.Body.String(), "SECRET_INVALID") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

func TestBulkFailures(t *testing.T) {
	unavailable := providers.Errorf(providers.Unavailable, "broken pipe")
	for _, tc := range []struct {
		name       string
		fail       map[string]error
		binary     bool
		query      string
		status     int
		want       string
		incomplete string
	}{
		{name: "gone since listed", fail: map[string]error{"a": providers.Errorf(providers.NotFound, "gone")}, status: 200, want: `{"b":{"b":"2"}}`},
		{name: "gone since listed, strictly", fail: map[string]error{"a": providers.Errorf(providers.NotFound, "gone")}, query: "?metadata.failOnError=true", status: 200, want: `{"b":{"b":"2"}}`},
		{name: "one fails", fail: map[string]error{"a": unavailable}, status: 200, want: `{"b":{"b":"2"}}`, incomplete: "1"},
		{name: "one is binary", binary: true, status: 200, want: `{"a":{"a":"1"},"b":{"b":"2"}}`, incomplete: "1"},
		{name: "one is binary, strictly", binary: true, query: "?metadata.failOnError=true", status: 500, want: "secret store vault: the value is not UTF-8 text"},
		{name: "one fails, strictly", fail: map[string]error{"a": unavailable}, query: "?metadata.failOnError=True", status: 500,
			want: `{"errorCode":"ERR_SECRET_GET","message":"failed getting secrets from secret store vault: broken pipe",` + details("vault", "STORE_UNAVAILABLE", "a") + `]}`},
		{name: "all fail", fail: map[string]error{"a": unavailable, "b": unavailable}, status: 500,
			want: `{"errorCode":"ERR_SECRET_GET","message":"failed getting secrets from secret store vault: broken pipe",` + details("vault", "STORE_UNAVAILABLE", "a") + `]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := providertest.NewMemory()
			m.Put("a", map[string]string{"a": "1"})
			m.Put("b", map[string]string{"b": "2"})
			if tc.binary {
				m.Put("c", map[string]string{"c": "\xff"})
			}
			for name, err := range tc.fail {
				m.FailName(name, err)
			}
			f := newFixture(t).withStore("vault", m)
			h := api.New(f.options).Handler()
			w := do(h, "GET", bulkPath+tc.query)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) || w.Header().Get("Keywell-Incomplete") != tc.incomplete {
				t.Errorf("status %d, incomplete %q: %s", w.Code, w.Header().Get("Keywell-Incomplete"), w.Body)
			}
			wantMetric := "# HELP keywell_api_bulk_left_out_total Secrets left out of bulk answers because they could not be read.\n" +
				"# TYPE keywell_api_bulk_left_out_total counter\nkeywell_api_bulk_left_out_total{store=\"vault\"} 1\n"
			if tc.incomplete == "" {
				wantMetric = ""
			}
			if err := testutil.GatherAndCompare(f.registry, strings.NewReader(wantMetric), "keywell_api_bulk_left_out_total"); err != nil {
				t.Error(err)
			}
			if tc.fail["a"] != unavailable {
				return
			}
			m.FailName("a", nil) // an incomplete answer is not kept
			m.FailName("b", nil)
			if w := do(h, "GET", bulkPath); w.Code != 200 || w.Body.String() != `{"a":{"a":"1"},"b":{"b":"2"}}`+"\n" {
				t.Errorf("after recovery: status %d: %s", w.Code, w.Body)
			}
		})
	}
}

// An incomplete answer that may be kept is still a failure to those who want all or nothing.
func TestBulkStrictAfterLenient(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("a", map[string]string{"a": "1"})
	m.Put("c", map[string]string{"c": "\xff"})
	h := api.New(newFixture(t).withStore("vault", m).options).Handler()
	for range 2 {
		if w := do(h, "GET", bulkPath); w.Code != 200 || w.Header().Get("Keywell-Incomplete") != "1" {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if w := do(h, "GET", bulkPath+"?metadata.failOnError=true"); w.Code != 500 {
			t.Errorf("strictly: status %d: %s", w.Code, w.Body)
		}
	}
}

// An answer is no better than the listing that it was made from.
func TestBulkOfStaleListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, lists := time.Now(), 0
		expires := begun.Add(time.Hour)
		listing := resolve.Listing{Names: []string{"a"}, FetchedAt: begun.Add(-time.Minute), ExpiresAt: begun.Add(time.Second)}
		f := newFixture(t)
		f.with(api.Store{Name: "vault", Open: true}, nil)
		f.options.Resolver = fakeResolver{
			list: func(context.Context, resolve.Request) (resolve.Listing, error) { lists++; return listing, nil },
			resolve: func(context.Context, resolve.Request) (resolve.Result, error) {
				return resolve.Result{Payload: providertest.Payload(map[string]string{"a": "1"}), FetchedAt: begun, ExpiresAt: expires}, nil
			},
		}
		h := api.New(f.options).Handler()
		if w := do(h, "GET", bulkPath); w.Header().Get("Age") != "60" || w.Header().Get("Keywell-Stale") != "" {
			t.Errorf("headers %v", w.Header())
		}
		do(h, "GET", bulkPath)
		time.Sleep(time.Second) // of the bubble
		listing.Stale = true
		if w := do(h, "GET", bulkPath); w.Header().Get("Keywell-Stale") != "true" || lists != 2 {
			t.Errorf("headers %v after %d listings", w.Header(), lists)
		}

		listing.ExpiresAt, expires = begun.Add(time.Hour), begun.Add(2*time.Second) // now the secret is what expires first
		do(h, "GET", bulkPath)
		do(h, "GET", bulkPath)
		time.Sleep(time.Second)
		if do(h, "GET", bulkPath); lists != 4 {
			t.Errorf("%d listings", lists)
		}
	})
}

// TestBulkKeepsSecretsApart checks that many reads at once do not get each other's answers.
func TestBulkKeepsSecretsApart(t *testing.T) {
	m := providertest.NewMemory()
	want := map[string]map[string]string{}
	for i := range 300 {
		name := fmt.Sprint("secret-", i)
		want[name] = map[string]string{"value": "of " + name}
		m.Put(name, want[name])
	}
	h := api.New(newFixture(t).withStore("vault", m, resolve.Settings{RequestsPerSecond: 1e6, Burst: 1e6}).options).Handler()
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			var got map[string]map[string]string
			if err := json.Unmarshal(do(h, "GET", bulkPath).Body.Bytes(), &got); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
	calls.Wait()
}

func TestBulkTrailer(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("a", map[string]string{"a": "1"})
	m.Put("b", map[string]string{"b": "2"})
	m.FailName("a", providers.Errorf(providers.Denied, "403"))
	client, _ := newFixture(t).withStore("vault", m).run().client(t)
	var trailer metadata.MD
	if _, err := client.GetBulkSecret(t.Context(), &runtimev1pb.GetBulkSecretRequest{StoreName: "vault"}, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if got := trailer.Get("keywell-incomplete"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("trailer %v", trailer)
	}
	_, err := client.GetBulkSecret(t.Context(), &runtimev1pb.GetBulkSecretRequest{StoreName: "vault", Metadata: map[string]string{"failOnError": "true"}})
	if s := status.Convert(err); s.Message() != "failed getting secrets from secret store vault: 403" {
		t.Errorf("strictly: %v", err)
	}
}

// countingResolver counts listings.
type countingResolver struct {
	api.Resolver
	lists int
}

func (c *countingResolver) List(ctx context.Context, req resolve.Request) (resolve.Listing, error) {
	c.lists++
	return c.Resolver.List(ctx, req)
}

// TestBulkCache checks when an encoded answer is used again: List is called exactly when it is not.
func TestBulkCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := providertest.NewMemory()
		m.Put("a", map[string]string{"a": "1"})
		f := newFixture(t).withStore("vault", m, resolve.Settings{CacheTTL: time.Minute})
		resolver := &countingResolver{Resolver: f.resolver}
		f.options.Resolver = resolver
		caller := scope.Identity{AppID: "one"}
		f.options.Attest = func(context.Context, api.Evidence) (scope.Identity, error) { return caller, nil }
		h := api.New(f.options).Handler()
		check := func(what string, assembled bool, want string, query ...string) {
			t.Helper()
			before := resolver.lists
			w := do(h, "GET", bulkPath+strings.Join(query, ""))
			if w.Code != 200 || w.Body.String() != want+"\n" {
				t.Errorf("%s: status %d: %s", what, w.Code, w.Body)
			}
			if got := resolver.lists > before; got != assembled {
				t.Errorf("%s: assembled %t, want %t", what, got, assembled)
			}
		}
		check("first", true, `{"a":{"a":"1"}}`)
		check("again", false, `{"a":{"a":"1"}}`)
		check("other selectors", true, `{}`, "?metadata.namespace=prod")
		check("other metadata, which may select names", true, `{"a":{"a":"1"}}`, "?metadata.path=x")
		check("other metadata again", true, `{"a":{"a":"1"}}`, "?metadata.path=x")
		check("unchanged by these", false, `{"a":{"a":"1"}}`)
		caller.AppID = "two"
		check("other caller", true, `{"a":{"a":"1"}}`)
		caller.AppID = "one"
		check("first caller again", false, `{"a":{"a":"1"}}`)

		m.Put("b", map[string]string{"b": "2"})
		f.resolver.Invalidate("vault", "")
		check("epoch changed", true, `{"a":{"a":"1"},"b":{"b":"2"}}`)
		do(h, "GET", bulkPath) // the new content moved the epoch while it was read, so the answer was made once more
		check("epoch changed, again", false, `{"a":{"a":"1"},"b":{"b":"2"}}`)

		f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"a"}}}
		f.setPolicy()
		check("policy changed", true, `{"b":{"b":"2"}}`)
		check("policy changed, again", false, `{"b":{"b":"2"}}`)

		time.Sleep(61 * time.Second) // of the bubble
		check("expired", true, `{"b":{"b":"2"}}`)
		check("expired, again", false, `{"b":{"b":"2"}}`)
	})
}

// TestBulkCacheBound checks that encoded answers of many callers give way to each other rather than pile up.
func TestBulkCacheBound(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("big", map[string]string{"big": strings.Repeat("x", 1<<20)})
	f := newFixture(t).withStore("vault", m)
	resolver := &countingResolver{Resolver: f.resolver}
	f.options.Resolver = resolver
	caller := scope.Identity{}
	f.options.Attest = func(context.Context, api.Evidence) (scope.Identity, error) { return caller, nil }
	h := api.New(f.options).Handler()
	ask := func(app int) (assembled bool) {
		caller.AppID = fmt.Sprint(app)
		before := resolver.lists
		if w := do(h, "GET", bulkPath); w.Code != http.StatusOK {
			t.Fatalf("status %d", w.Code)
		}
		return resolver.lists > before
	}
	for app := range 40 {
		ask(app)
	}
	if ask(39) {
		t.Error("the last answer was not kept")
	}
	if !ask(0) {
		t.Error("40 answers of 1 MiB are all kept")
	}
}

// TestBulkIsParallel checks that one bulk call has several reads under way, but not all at once.
func TestBulkIsParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := make([]string, 100)
		for i := range names {
			names[i] = fmt.Sprintf("s%03d", i)
		}
		f := newFixture(t)
		f.with(api.Store{Name: "vault", Open: true}, nil)
		release := make(chan struct{})
		entered := make(chan struct{}, len(names))
		f.options.Resolver = fakeResolver{
			list: func(context.Context, resolve.Request) (resolve.Listing, error) {
				return resolve.Listing{Names: names}, nil
			},
			resolve: func(context.Context, resolve.Request) (resolve.Result, error) {
				entered <- struct{}{}
				<-release
				return resolve.Result{Payload: providers.Payload{Fields: map[string]secret.Value{}}}, nil
			},
		}
		h := api.New(f.options).Handler()
		done := make(chan int)
		go func() { done <- do(h, "GET", bulkPath).Code }()
		synctest.Wait()
		if n := len(entered); n != 16 {
			t.Errorf("%d reads at once, want 16", n)
		}
		close(release)
		if code := <-done; code != 200 || len(entered) != len(names) {
			t.Errorf("status %d after %d reads", code, len(entered))
		}
	})
}
