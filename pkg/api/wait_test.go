package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/scope"
)

func TestLongPoll(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(t *testing.T, f *fixture, s *server) {
		const target = "/v1.0/secrets/vault/db?wait=30s"
		poll := func(tag string, meanwhile func()) (*stream, time.Duration) {
			t.Helper()
			begun := time.Now()
			if meanwhile != nil {
				time.AfterFunc(10*time.Second, meanwhile)
			}
			st := s.get(target, "If-None-Match", tag)
			return st, time.Since(begun)
		}
		first, took := poll(`"other"`, nil)
		tag := first.Header.Get("Etag")
		first.new()
		if first.StatusCode != http.StatusOK || took != 0 {
			t.Errorf("another tag: status %d after %v", first.StatusCode, took)
		}
		if st, took := poll(tag, nil); st.StatusCode != http.StatusNotModified || took != 30*time.Second {
			t.Errorf("no change: status %d after %v", st.StatusCode, took)
		}
		st, took := poll(tag, func() { change(f, m, "2") })
		if lines, _ := st.new(); st.StatusCode != http.StatusOK || took != 10*time.Second || strings.Join(lines, "") != `{"password":"2","user":"u"}` {
			t.Errorf("a change: status %d after %v: %q", st.StatusCode, took, lines)
		}
		tag = st.Header.Get("Etag")
		st, took = poll(tag, func() { m.Delete("db"); f.resolver.Invalidate("vault", "db") })
		if lines, _ := st.new(); st.StatusCode != http.StatusInternalServerError || took != 10*time.Second {
			t.Errorf("a removal: status %d after %v: %q", st.StatusCode, took, lines)
		}
		change(f, m, "2")
		st, took = poll(tag, func() {
			f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"db"}}}
			f.setPolicy()
		})
		if lines, _ := st.new(); st.StatusCode != http.StatusForbidden || took != 10*time.Second {
			t.Errorf("a denial: status %d after %v: %q", st.StatusCode, took, lines)
		}
		f.rules.Scopes = nil
		f.setPolicy()
		st, took = poll(tag, s.stop)
		if st.StatusCode != http.StatusNotModified || took != 10*time.Second {
			t.Errorf("the agent's end: status %d after %v", st.StatusCode, took)
		}
	})
}

func TestWatchIsRefused(t *testing.T) {
	m := providertest.NewMemory()
	f := withDB(m, quiet)(t)
	f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"root"}}}
	f.setPolicy()
	h := api.New(f.options).Handler()
	for target, want := range map[string]struct {
		code int
		text string
	}{
		"/v1.0/secrets/vault/db?watch=maybe":          {400, "watch is neither true nor false"},
		"/v1.0/secrets/vault/db?wait=1h":              {400, "wait is not a duration from 0s to 5m"},
		"/v1.0/secrets/vault/db?wait=-1s":             {400, "wait is not a duration from 0s to 5m"},
		"/v1.0/secrets/vault/db?wait=":                {400, "wait is not a duration from 0s to 5m"},
		"/v1.0/secrets/vault/db?wait=99999999999":     {400, "wait is not a duration from 0s to 5m"},
		"/v1.0/secrets/vault/db?wait=5s&watch":        {400, "watch and wait exclude each other"},
		"/v1.0/secrets/vault/bulk?watch":              {400, "one secret can be watched"},
		"/v1.0/secrets/vault/root?watch":              {403, "access denied by policy"},
		"/v1.0/secrets/nowhere/db?watch":              {401, "failed finding secret store"},
		"/v1.0/secrets/vault/db?watch=false":          {200, `{"password":"1","user":"u"}`},
		"/v1.0/secrets/vault/db?wait=60":              {200, `{"password":"1","user":"u"}`}, // there is nothing to wait for
		"/v1.0/secrets/vault/bulk?watch=0":            {200, `"db"`},
		"/v1.0/configuration/vault/subscribe?key=db":  {500, "send Accept: text/event-stream"},
		"/v1.0-alpha1/configuration/vault/subscribe":  {500, "app channel is not initialized. cannot subscribe to configuration updates"},
		"/v1.0/configuration/vault/x/unsubscribe":     {500, "failed to unsubscribe to configuration request x: subscription does not exist"},
		"/v1.0/configuration/vault/x/y":               {404, "ERR_DIRECT_INVOKE"},
		"/v1.0/configuration/nowhere":                 {400, "configuration store nowhere not found"},
		"/v1.0/configuration/vault?key=root":          {403, "access denied by policy"},
		"/v1.0/configuration/vault?key=":              {400, "a key is empty"},
		"/v1.0/configuration/vault?key=missing":       {204, ""},
		"/v1.0/configuration/vault?key=db&key=absent": {200, `{"db":{"value":"{\"password\":\"1\",\"user\":\"u\"}","version":"1","metadata":{"keywell-encoding":"json"}}}`},
		"/v1.0-alpha1/configuration/vault":            {200, `"db":{"value":`},
	} {
		if w := do(h, "GET", target); w.Code != want.code || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: status %d: %s", target, w.Code, w.Body)
		}
	}
}

// FuzzWatchQuery checks that every query has an answer, and that only one which asks for it is a stream.
func FuzzWatchQuery(f *testing.F) {
	for _, seed := range []string{"watch", "watch=true&wait=1s", "wait=5m", "watch=%zz", "wait=1e9h", "metadata.watch=1", "wait=&wait=3"} {
		f.Add(seed)
	}
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	f.Fuzz(func(t *testing.T, query string) {
		h := api.New(newFixture(t).withStore("vault", m).options).Handler()
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // no stream lasts
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1.0/secrets/vault/db", nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		values, _ := url.ParseQuery(query)
		streams := w.Header().Get("Content-Type") == "text/event-stream"
		if streams && !values.Has("watch") || values.Has("wait") && streams || w.Code != 200 && w.Code != 400 && w.Code != 500 {
			t.Errorf("query %q: status %d, %s: %s", query, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
	})
}
