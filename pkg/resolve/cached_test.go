package resolve_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/secret"
)

// TestCached reads secret "a" once, at most, and asks for it again.
func TestCached(t *testing.T) {
	const ttl = 10 * time.Second
	get := func(f *fixture) { f.want(read(f.t, "a"), "1", false, 1) }
	tests := []struct {
		name    string
		before  func(f *fixture)
		request func(t *testing.T) resolve.Request
		want    bool
	}{
		{"young", get, nil, true},
		{"never read", func(*fixture) {}, nil, false},
		{"expired", func(f *fixture) { get(f); advance(ttl) }, nil, false},
		{"outdated", func(f *fixture) { get(f); f.Invalidate("s", "a") }, nil, false},
		{"refused", func(f *fixture) { f.store.Delete("a"); _, _ = f.Resolve(f.t.Context(), read(f.t, "a")) }, nil, false},
		{"store removed", func(f *fixture) { get(f); f.Remove("s") }, nil, false},
		{"fresh", get, func(t *testing.T) resolve.Request { r := read(t, "a"); r.Fresh = true; return r }, false},
		{"a listing", get, func(t *testing.T) resolve.Request { return list(t) }, false},
		{"no grant", get, func(*testing.T) resolve.Request { return resolve.Request{} }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				audit := &buffer{}
				f := newFixtureWith(t, resolve.Options{Audit: audit.logger()}, resolve.Settings{CacheTTL: ttl})
				f.put("a", "1")
				tt.before(f)
				fetches, records := f.store.Fetches("a"), strings.Count(audit.String(), "\n")
				req := read(t, "a")
				if tt.request != nil {
					req = tt.request(t)
				}
				got, ok := f.Cached(t.Context(), req)
				if ok != tt.want {
					t.Fatalf("got %v, want %v", ok, tt.want)
				}
				if f.store.Fetches("a") != fetches {
					t.Error("the store was asked")
				}
				if tt.want {
					records++
					same, err := f.Resolve(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(same, got, cmp.Comparer(secret.Value.Equal)); diff != "" {
						t.Errorf("differs from Resolve (-want +got):\n%s", diff)
					}
					records++
				}
				if n := strings.Count(audit.String(), "\n"); n != records {
					t.Errorf("%d audit records, want %d", n, records)
				}
			})
		})
	}
}
