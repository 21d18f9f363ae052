package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// echo returns a handler with one store, "vault", whose secrets have the given fields, and the requests it got.
func echo(t testing.TB, s api.Store, fields map[string]secret.Value) (http.Handler, *[]resolve.Request) {
	t.Helper()
	f := newFixture(t)
	s.Name, s.Open = "vault", true
	f.with(s, nil)
	var got []resolve.Request
	f.options.Resolver = fakeResolver{resolve: func(_ context.Context, req resolve.Request) (resolve.Result, error) {
		got = append(got, req)
		return resolve.Result{Payload: providers.Payload{Fields: fields}}, nil
	}}
	return api.New(f.options).Handler(), &got
}

func TestSelectors(t *testing.T) {
	all := providers.Selectors{Version: true, Stage: true, Namespace: true}
	for _, tc := range []struct {
		name  string
		knows providers.Selectors
		query string
		ref   scope.Ref
		rest  map[string]string
	}{
		{name: "none", knows: all, query: ""},
		{name: "all", knows: all, query: "metadata.version_id=7&metadata.version_stage=AWSPREVIOUS&metadata.namespace=prod",
			ref: scope.Ref{Version: "7", Stage: "AWSPREVIOUS", Namespace: "prod"}},
		{name: "the store has none", query: "metadata.version_id=7&metadata.version_stage=AWSPREVIOUS&metadata.namespace=prod"},
		{name: "Tencent's spelling", knows: all, query: "metadata.VersionID=7", ref: scope.Ref{Version: "7"}},
		{name: "both spellings", knows: all, query: "metadata.VersionID=7&metadata.version_id=8", ref: scope.Ref{Version: "8"}},
		{name: "the rest passes", knows: all, query: "metadata.maxresults=5&metadata.Version_Id=1&other=2&metadata=3",
			rest: map[string]string{"maxresults": "5", "Version_Id": "1"}},
		{name: "first value wins", knows: all, query: "metadata.a=1&metadata.a=2", rest: map[string]string{"a": "1"}},
		{name: "ours is not passed on", knows: all, query: "metadata.failOnError=true"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, got := echo(t, api.Store{Selectors: tc.knows}, map[string]secret.Value{})
			if w := do(h, "GET", "/v1.0/secrets/vault/db?"+tc.query); w.Code != http.StatusOK {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			tc.ref.Store, tc.ref.Name = "vault", "db"
			req := (*got)[0]
			if diff := cmp.Diff(tc.ref, req.Grant.Ref()); diff != "" {
				t.Errorf("ref (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.rest, req.Metadata); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if req.Origin != "api" || req.Grant.Identity().AppID != appID {
				t.Errorf("origin %q, app id %q", req.Origin, req.Grant.Identity().AppID)
			}
		})
	}
}

func TestPathDecoding(t *testing.T) {
	for path, want := range map[string]string{
		"a+b":          "a b",
		"a%2Bb":        "a+b",
		"a%20b":        "a b",
		"a%252Fb":      "a%2Fb", // unescaped once
		"a:b":          "a:b",
		"%2e%2e":       "..",
		"a/../b":       "b",
		"a//b":         "a/b",
		"bulk/x":       "bulk/x",
		"x/bulk":       "x/bulk",
		"bul%6B":       "bulk",
		"%2Fa%2F":      "/a/",
		"%C3%A9":       "é",
		"%FF":          "\xff",
		"a;b=c":        "a;b=c",
		"a?metadata.x": "a",
	} {
		t.Run(path, func(t *testing.T) {
			h, got := echo(t, api.Store{}, map[string]secret.Value{})
			if w := do(h, "GET", "/v1.0/secrets/vault/"+path); w.Code != http.StatusOK {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if name := (*got)[0].Grant.Ref().Name; name != want {
				t.Errorf("name %q, want %q", name, want)
			}
		})
	}
}

// FuzzPath checks that every name can be asked for by escaping all of it, and that any path at all has an answer.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"db", "bulk", "a/b", "..", "", "a+b%", "\x00\xff", "/", "?metadata.x=1#y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		h, got := echo(t, api.Store{}, map[string]secret.Value{})
		var escaped strings.Builder
		for _, b := range []byte(name) {
			const digits = "0123456789ABCDEF"
			escaped.Write([]byte{'%', digits[b>>4], digits[b&15]})
		}
		w := do(h, "GET", "/v1.0/secrets/vault/"+escaped.String())
		switch {
		case name == "":
			if w.Code != http.StatusNotFound {
				t.Errorf("no name: status %d", w.Code)
			}
		case w.Code != http.StatusOK || (*got)[0].Grant.Ref().Name != name:
			t.Errorf("name %q: status %d, resolved %v", name, w.Code, *got)
		}

		r, err := http.NewRequest(http.MethodGet, "http://x/v1.0/"+name, nil)
		if err != nil {
			return // net/http refuses it before us
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code >= 500 && !strings.Contains(name, "secrets") && !strings.Contains(name, "configuration") && !strings.Contains(name, "healthz") {
			t.Errorf("path %q: status %d: %s", name, rec.Code, rec.Body)
		}
	})
}

// FuzzJSON checks that an answer is what encoding/json makes of the same strings.
func FuzzJSON(f *testing.F) {
	f.Add("a", "b", "<>&\"\\\n\x00\x7f", "\u2028é\U0001F511")
	f.Fuzz(func(t *testing.T, name1, name2, value1, value2 string) {
		h, _ := echo(t, api.Store{}, map[string]secret.Value{name1: secret.FromString(value1), name2: secret.FromString(value2)})
		w := do(h, "GET", "/v1.0/secrets/vault/db")
		same := map[string]string{name1: value1}
		same[name2] = value2
		for name, value := range same {
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "SECRET_BINARY") {
					t.Fatalf("not text: status %d: %s", w.Code, w.Body)
				}
				return
			}
		}
		var want bytes.Buffer
		if err := json.NewEncoder(&want).Encode(same); err != nil {
			t.Fatal(err)
		}
		if w.Body.String() != want.String() {
			t.Errorf("got %q, want %q", w.Body, want.String())
		}
	})
}

func TestNoStores(t *testing.T) {
	const body = `{"errorCode":"ERR_SECRET_STORES_NOT_CONFIGURED","message":"secret store is not configured",`
	f := newFixture(t)
	h := api.New(f.options).Handler()
	if w := do(h, "GET", "/v1.0/secrets/vault/db"); w.Code != 500 || w.Body.String() != body+details("vault", "STORES_NOT_CONFIGURED", "")+"]}" {
		t.Errorf("no store: status %d: %s", w.Code, w.Body)
	}
	f.with(api.Store{Name: "vault"}, nil) // closed: not loaded, as Dapr would say
	if w := do(h, "GET", "/v1.0/secrets/vault/db"); w.Code != 500 || w.Body.String() != body+details("vault", "STORE_CLOSED", "")+"]}" {
		t.Errorf("closed store: status %d: %s", w.Code, w.Body)
	}
	f.with(api.Store{Name: "racing", Open: true}, nil) // open, but not in the resolver any more
	if w := do(h, "GET", "/v1.0/secrets/racing/db"); w.Code != 401 || !strings.Contains(w.Body.String(), "failed finding secret store with key racing") {
		t.Errorf("removed store: status %d: %s", w.Code, w.Body)
	}
	if w := do(h, "GET", "/v1.0/secrets/racing/bulk"); w.Code != 401 {
		t.Errorf("bulk of removed store: status %d: %s", w.Code, w.Body)
	}
}

func TestNotReady(t *testing.T) {
	f := newFixture(t)
	f.options.Ready = func() []string { return []string{"stores", "policy"} }
	h := api.New(f.options).Handler()
	for path, want := range map[string]string{
		"/v1.0/healthz":          `{"errorCode":"ERR_HEALTH_NOT_READY","message":"dapr is not ready: [stores policy]"}`,
		"/v1.0/healthz/outbound": `{"errorCode":"ERR_OUTBOUND_HEALTH_NOT_READY","message":"dapr outbound is not ready"}`,
	} {
		if w := do(h, "GET", path); w.Code != 500 || w.Body.String() != want {
			t.Errorf("%s: status %d: %s", path, w.Code, w.Body)
		}
	}
}

func TestHTTPToken(t *testing.T) {
	f := newFixture(t).withStore("vault", providertest.NewMemory())
	f.options.Token = secret.FromString("s3cret-t0ken")
	srv := f.run()
	refused := answer("401 Unauthorized", "invalid api token\n", "Content-Type: text/plain; charset=utf-8\r\n", "X-Content-Type-Options: nosniff\r\n", zeroTrace)
	for _, tc := range []struct {
		name, line, header string
		refused            bool
	}{
		{name: "missing", line: "GET /v1.0/secrets/vault/x", refused: true},
		{name: "wrong", line: "GET /v1.0/secrets/vault/x", header: "dapr-api-token: s3cret-t0keN\r\n", refused: true},
		{name: "right", line: "GET /v1.0/secrets/vault/x", header: "Dapr-Api-Token: s3cret-t0ken\r\n"},
		{name: "unknown path", line: "GET /nothing", refused: true},
		{name: "metadata", line: "GET /v1.0/metadata", refused: true},
		{name: "health", line: "GET /v1.0/healthz"},
		{name: "health for others", line: "GET /v1.0/healthz/outbound/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := sortHeader(srv.raw(t, tc.line+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+tc.header+"\r\n"))
			if (got == sortHeader(refused)) != tc.refused {
				t.Errorf("got %q", got)
			}
		})
	}
	if logs := f.logs.String(); strings.Contains(logs, "t0ken") || !strings.Contains(logs, "unauthenticated") {
		t.Errorf("logs: %s", logs)
	}
}

// TestAttest checks what an attester sees, and that its identity is the one that the policy is asked about.
func TestAttest(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	f := newFixture(t).withStore("vault", m)
	f.rules.Stores[0].AppIDs = []string{"billing"}
	f.setPolicy()
	f.options.Attest = func(_ context.Context, e api.Evidence) (scope.Identity, error) {
		if e.Peer == nil || !strings.HasPrefix(e.Peer.String(), "127.0.0.1:") {
			t.Errorf("peer %v", e.Peer)
		}
		if !e.Token.Equal(secret.FromString("billing-pod")) {
			return scope.Identity{}, io.ErrUnexpectedEOF
		}
		return scope.Identity{AppID: "billing", Namespace: "shop"}, nil
	}
	srv := f.run()
	for token, want := range map[string]string{"billing-pod": "200 OK", "other-pod": "401 Unauthorized"} {
		got := srv.raw(t, "GET /v1.0/secrets/vault/db HTTP/1.1\r\nHost: x\r\nConnection: close\r\ndapr-api-token: "+token+"\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+want) || strings.Contains(got, "unexpected EOF") {
			t.Errorf("%s: %s", token, got)
		}
	}
}

func TestBody(t *testing.T) {
	f := newFixture(t).withStore("vault", providertest.NewMemory())
	f.options.MaxBodyBytes = 16
	srv := f.run()
	for _, tc := range []struct{ name, method, path, body, want string }{
		{"malformed", "GET", "/v1.0/secrets/vault/x", "{", "ERR_MALFORMED_REQUEST"},
		{"malformed bulk", "GET", "/v1.0/secrets/vault/bulk", "[]", "ERR_MALFORMED_REQUEST"},
		{"wrong type", "GET", "/v1.0/secrets/vault/x", `{"key":1}`, "ERR_MALFORMED_REQUEST"},
		{"malformed metadata", "GET", "/v1.0/metadata", "x", "ERR_MALFORMED_REQUEST"},
		{"too large", "GET", "/v1.0/secrets/vault/x", `{"a":"1234567890"}`, `{"errorCode":"ERR_BODY_READ","message":"failed to read request body: stream too large"}`},
		{"metadata too large", "PUT", "/v1.0/metadata/x", strings.Repeat("x", 17), "ERR_BODY_READ"},
		{"at the limit", "PUT", "/v1.0/metadata/x", strings.Repeat("x", 16), "204 No Content"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := srv.raw(t, tc.method+" "+tc.path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"+
				strings.ToLower(hexLen(tc.body))+"\r\n"+tc.body+"\r\n0\r\n\r\n")
			status := "HTTP/1.1 400 Bad Request"
			if strings.HasPrefix(tc.want, "204") {
				status = "HTTP/1.1 204"
			}
			if !strings.HasPrefix(got, status) || !strings.Contains(got, tc.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func hexLen(s string) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[len(s)>>4], digits[len(s)&15]})
}

func TestMetadataLimits(t *testing.T) {
	h := api.New(newFixture(t).options).Handler()
	put := func(key string, size int) int {
		r := httptest.NewRequest("PUT", "/v1.0/metadata/"+key, strings.NewReader(strings.Repeat("x", size)))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	if code := put("k", 4096); code != http.StatusRequestEntityTooLarge {
		t.Errorf("large entry: status %d", code)
	}
	for i := range 16 {
		if code := put("k"+strconv.Itoa(i), 1); code != http.StatusNoContent {
			t.Fatalf("entry %d: status %d", i, code)
		}
	}
	if code := put("one-more", 1); code != http.StatusRequestEntityTooLarge {
		t.Errorf("entry too many: status %d", code)
	}
	if code := put("k0", 2); code != http.StatusNoContent {
		t.Errorf("replacing an entry: status %d", code)
	}
}

func TestConditional(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "one"})
	f := newFixture(t).withStore("vault", m)
	h := api.New(f.options).Handler()
	for _, path := range []string{"/v1.0/secrets/vault/db", "/v1.0/secrets/vault/bulk"} {
		t.Run(path, func(t *testing.T) {
			m.Put("db", map[string]string{"db": "one"})
			f.resolver.Invalidate("vault", "db")
			etag := do(h, "GET", path).Header().Get("Etag")
			if len(etag) != 34 {
				t.Fatalf("etag %q", etag)
			}
			for header, want := range map[string]int{
				etag: 304, "W/" + etag: 304, `"x", ` + etag: 304, "*": 304, `"x"`: 200, strings.Trim(etag, `"`): 200,
			} {
				w := do(h, "GET", path, "If-None-Match", header)
				if w.Code != want || (want == 304) != (w.Body.Len() == 0) || w.Header().Get("Etag") != etag {
					t.Errorf("If-None-Match: %s: status %d, %d bytes, etag %s", header, w.Code, w.Body.Len(), w.Header().Get("Etag"))
				}
			}
			m.Put("db", map[string]string{"db": "two"})
			f.resolver.Invalidate("vault", "db")
			if w := do(h, "GET", path, "If-None-Match", etag); w.Code != 200 || !strings.Contains(w.Body.String(), "two") {
				t.Errorf("after a change: status %d: %s", w.Code, w.Body)
			}
		})
	}
}

func TestNoCache(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "one"})
	h := api.New(newFixture(t).withStore("vault", m).options).Handler()
	for _, tc := range []struct {
		path, header string
		fetches      int
	}{
		{"db", "", 1},
		{"db", "max-age=0", 1}, // not supported
		{"db", "no-cache", 2},
		{"db", "no-store, No-Cache", 3},
		{"bulk", "", 3},
		{"bulk", "no-cache", 4},
		{"bulk", "", 4},
	} {
		if w := do(h, "GET", "/v1.0/secrets/vault/"+tc.path, "Cache-Control", tc.header); w.Code != 200 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		if got := m.Fetches("db"); got != tc.fetches {
			t.Errorf("%s, %q: %d fetches, want %d", tc.path, tc.header, got, tc.fetches)
		}
	}
}

// TestStamp checks the headers that tell how good an answer is.
func TestStamp(t *testing.T) {
	f := newFixture(t)
	f.with(api.Store{Name: "vault", Open: true}, nil)
	result := resolve.Result{
		Payload:   providers.Payload{Fields: map[string]secret.Value{}, Version: "v\n1"},
		FetchedAt: time.Now().Add(-90*time.Second - 500*time.Millisecond),
		Stale:     true,
	}
	f.options.Resolver = fakeResolver{resolve: func(context.Context, resolve.Request) (resolve.Result, error) { return result, nil }}
	h := api.New(f.options).Handler()
	header := do(h, "GET", "/v1.0/secrets/vault/db").Header()
	if header.Get("Age") != "90" || header.Get("Keywell-Stale") != "true" || header["Keywell-Version"] != nil {
		t.Errorf("stale answer: %v", header)
	}
	result.FetchedAt, result.Stale, result.Version = time.Now(), false, "v1"
	header = do(h, "GET", "/v1.0/secrets/vault/db").Header()
	if header["Age"] != nil || header["Keywell-Stale"] != nil || header.Get("Keywell-Version") != "v1" {
		t.Errorf("fresh answer: %v", header)
	}
}
