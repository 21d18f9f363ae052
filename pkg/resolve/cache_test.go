package resolve_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

func TestFreshness(t *testing.T) {
	const ttl = 10 * time.Second
	tests := []struct {
		name     string
		maxAge   time.Duration
		notAfter time.Duration // after the first read; zero: never
		age      time.Duration // of the answer at the second read
		fetches  int           // after the second read
		expires  time.Duration // ExpiresAt of the first result, after its FetchedAt
	}{
		{"young", 0, 0, ttl - 1, 1, ttl},
		{"expired", 0, 0, ttl, 2, ttl},
		{"smaller max age, young", 3 * time.Second, 0, 3*time.Second - 1, 1, 3 * time.Second},
		{"smaller max age, expired", 3 * time.Second, 0, 3 * time.Second, 2, 3 * time.Second},
		{"larger max age, young", time.Hour, 0, time.Hour - 1, 1, time.Hour},
		{"larger max age, expired", time.Hour, 0, time.Hour, 2, time.Hour},
		{"content valid", 0, 4 * time.Second, 4*time.Second - 1, 1, 4 * time.Second},
		{"content no longer valid", 0, 4 * time.Second, 4 * time.Second, 2, 4 * time.Second},
		{"larger max age, content no longer valid", time.Hour, 4 * time.Second, 4 * time.Second, 2, 4 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, resolve.Settings{CacheTTL: ttl, RefreshInterval: time.Hour})
				p := one("1")
				if tt.notAfter > 0 {
					p.NotAfter = time.Now().Add(tt.notAfter)
				}
				f.store.PutPayload("", "a", p)
				req := read(t, "a")
				req.MaxAge = tt.maxAge
				res := f.want(req, "1", false, 1)
				if !res.FetchedAt.Equal(time.Now()) || res.ExpiresAt.Sub(res.FetchedAt) != tt.expires || res.RefreshInterval != time.Hour {
					t.Errorf("fetched %v, expires %v, refresh %v", res.FetchedAt, res.ExpiresAt, res.RefreshInterval)
				}
				advance(tt.age)
				f.want(req, "1", false, tt.fetches)
			})
		})
	}
}

func TestDefaults(t *testing.T) {
	tests := []struct {
		cacheTTL, refresh, want time.Duration
	}{
		{0, 0, time.Minute},
		{time.Hour, 0, time.Hour},
		{1, 0, time.Minute}, // no cache is no wish to rotate without a pause
		{1, time.Second, time.Second},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.cacheTTL, " ", tt.refresh), func(t *testing.T) {
			f := newFixture(t, resolve.Settings{CacheTTL: tt.cacheTTL, RefreshInterval: tt.refresh})
			f.put("a", "1")
			if got := f.want(read(t, "a"), "1", false, 1).RefreshInterval; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNegativeAnswers(t *testing.T) {
	for _, tt := range []struct {
		kind       providers.Kind
		remembered bool
	}{
		{providers.NotFound, true},
		{providers.Denied, true},
		{providers.Invalid, false},
	} {
		t.Run(tt.kind.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFixture(t, resolve.Settings{NegativeTTL: 5 * time.Second})
				f.put("a", "1")
				cause := errors.New("no")
				f.store.FailName("a", providers.Errorf(tt.kind, "store says %w", cause))
				if err := f.wantKind(read(t, "a"), tt.kind, 1); !errors.Is(err, cause) {
					t.Errorf("the cause is lost: %v", err)
				}
				calls := 1
				if !tt.remembered {
					calls++
				}
				if err := f.wantKind(read(t, "a"), tt.kind, calls); !errors.Is(err, cause) {
					t.Errorf("the cause is lost: %v", err)
				}
				f.store.FailName("a", nil)
				advance(5 * time.Second)
				f.want(read(t, "a"), "1", false, calls+1)
			})
		})
	}
}

func TestMaxAgeBoundsNegativeAnswersToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{NegativeTTL: 5 * time.Second})
		req := read(t, "a")
		req.MaxAge = time.Second
		f.wantKind(req, providers.NotFound, 1)
		advance(time.Second)
		f.wantKind(req, providers.NotFound, 2)
		req.MaxAge = time.Hour // does not prolong them
		advance(5 * time.Second)
		f.wantKind(req, providers.NotFound, 3)
	})
}

// A secret that is deleted or withdrawn must not live on in the cache.
func TestRefusalReplacesContent(t *testing.T) {
	for _, kind := range []providers.Kind{providers.NotFound, providers.Denied, providers.Invalid} {
		t.Run(kind.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var changed changes
				f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{CacheTTL: time.Minute, NegativeTTL: time.Second})
				f.put("a", "1")
				f.want(read(t, "a"), "1", false, 1)
				changed.take()
				epoch := f.Epoch("s")
				f.store.FailName("a", providers.Errorf(kind, "no"))
				advance(time.Minute)
				f.wantKind(read(t, "a"), kind, 2)
				if diff := cmp.Diff([]string{"s/a"}, changed.take()); diff != "" {
					t.Error(diff)
				}
				if f.Epoch("s") <= epoch {
					t.Error("the epoch stands still")
				}
				// Now the store fails, and the content from before the refusal must not come back.
				f.store.FailName("a", providers.Errorf(providers.Unavailable, "down"))
				advance(time.Second)
				f.wantKind(read(t, "a"), providers.Unavailable, 4) // with a retry
			})
		})
	}
}

func TestEpochAndChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var changed changes
		f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{CacheTTL: time.Minute, MaxEntries: 3})
		changed.take()
		epoch := f.Epoch("s")
		step := func(what string, moves bool, want ...string) {
			t.Helper()
			now := f.Epoch("s")
			if now < epoch || (now != epoch) != moves {
				t.Errorf("%s: epoch %d → %d", what, epoch, now)
			}
			epoch = now
			if diff := cmp.Diff(want, changed.take()); diff != "" {
				t.Errorf("%s: changes: %s", what, diff)
			}
		}
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		if _, err := f.List(t.Context(), list(t)); err != nil {
			t.Fatal(err)
		}
		step("first read", false)
		f.want(read(t, "a"), "1", false, 1)
		step("hit", false)
		advance(time.Minute)
		f.want(read(t, "a"), "1", false, 2)
		if _, err := f.List(t.Context(), list(t)); err != nil {
			t.Fatal(err)
		}
		step("refresh with the same content", false)
		f.put("a", "2")
		advance(time.Minute)
		f.want(read(t, "a"), "2", false, 3)
		step("refresh with other content", true, "s/a")
		f.put("a", "2")
		advance(time.Minute)
		f.want(read(t, "a"), "2", false, 4)
		step("refresh with another version", true, "s/a")
		f.put("b", "1")
		f.Invalidate("s", "b")
		step("invalidation of what is not cached", true, "s/b")
		f.Invalidate("s", "")
		step("invalidation of everything", true, "s/")
		if _, err := f.List(t.Context(), list(t)); err != nil {
			t.Fatal(err)
		}
		step("refresh of the listing with another name", true, "s/")
		f.wantKind(read(t, "x"), providers.NotFound, 1)
		step("first refusal", false)
		advance(5 * time.Second)
		f.wantKind(read(t, "x"), providers.NotFound, 2)
		step("the same refusal", false)
		f.store.FailName("x", providers.Errorf(providers.Denied, "no"))
		advance(5 * time.Second)
		f.wantKind(read(t, "x"), providers.Denied, 3)
		step("another refusal", true, "s/x")
		f.want(read(t, "b"), "1", false, 1)
		step("eviction", true)
	})
}

func TestInvalidate(t *testing.T) {
	f := newFixture(t, resolve.Settings{})
	f.put("a", "1")
	f.put("b", "1")
	f.want(read(t, "a"), "1", false, 1)
	f.want(read(t, "b"), "1", false, 1)
	f.wantKind(read(t, "new"), providers.NotFound, 1)
	if l, err := f.List(t.Context(), list(t)); err != nil || len(l.Names) != 2 {
		t.Errorf("%v, %v", l.Names, err)
	}
	f.put("a", "2")
	f.put("new", "1")
	f.Invalidate("s", "a")
	f.want(read(t, "a"), "2", false, 2)
	f.want(read(t, "b"), "1", false, 1) // another secret
	f.Invalidate("s", "new")
	f.want(read(t, "new"), "1", false, 2) // not "not found" any more
	if l, err := f.List(t.Context(), list(t)); err != nil || len(l.Names) != 3 {
		t.Errorf("a change may change the listing, got %v, %v", l.Names, err)
	}
	f.Invalidate("s", "")
	f.want(read(t, "b"), "1", false, 2)
	f.Invalidate("other", "a") // not installed
}

func TestBounds(t *testing.T) {
	kilobyte := strings.Repeat("x", 1024)
	read3 := func(f *fixture) {
		for _, name := range []string{"a", "b", "a", "c"} { // b is the least recently used
			f.want(read(t, name), kilobyte, false, 1)
		}
	}
	for name, settings := range map[string]resolve.Settings{
		"entries": {MaxEntries: 2},
		"bytes":   {MaxBytes: 2 * 2048},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, settings)
			for _, name := range []string{"a", "b", "c"} {
				f.put(name, kilobyte)
			}
			read3(f)
			f.want(read(t, "a"), kilobyte, false, 1)
			f.want(read(t, "c"), kilobyte, false, 1)
			f.want(read(t, "b"), kilobyte, false, 2)
		})
	}
	t.Run("one that is too large", func(t *testing.T) {
		var changed changes
		f := newFixtureWith(t, resolve.Options{Changed: changed.add}, resolve.Settings{MaxBytes: 2048})
		changed.take()
		f.put("small", "1")
		f.put("large", kilobyte+kilobyte)
		f.want(read(t, "small"), "1", false, 1)
		epoch := f.Epoch("s")
		f.want(read(t, "large"), kilobyte+kilobyte, false, 1)
		f.want(read(t, "large"), kilobyte+kilobyte, false, 2) // not kept
		f.want(read(t, "small"), "1", false, 1)               // not evicted
		if f.Epoch("s") == epoch {
			t.Error("an answer that can't be compared must move the epoch")
		}
		if got := changed.take(); got != nil {
			t.Errorf("changes %v of what is not known to have changed", got)
		}
	})
}

func TestDigest(t *testing.T) {
	r := newFixture(t, resolve.Settings{})
	digest := func(name string, fields map[string]string) resolve.Digest {
		r.store.Put(name, fields)
		res, err := r.Resolve(t.Context(), read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return res.Digest
	}
	base := digest("base", map[string]string{"a": "1", "b": "2"})
	if same := digest("same", map[string]string{"b": "2", "a": "1"}); same != base {
		t.Error("equal content has two digests")
	}
	seen := map[resolve.Digest]string{base: "base"}
	for name, fields := range map[string]map[string]string{
		"value":   {"a": "1", "b": "3"},
		"swapped": {"a": "2", "b": "1"},
		"name":    {"a": "1", "c": "2"},
		"more":    {"a": "1", "b": "2", "c": ""},
		"joined":  {"a": "1b2"},
		"shifted": {"a1": "", "b": "2"},
		"none":    {},
	} {
		d := digest(name, fields)
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
	other := newFixture(t, resolve.Settings{})
	other.store.Put("base", map[string]string{"a": "1", "b": "2"})
	res, err := other.Resolve(t.Context(), readAs(t, alice, scope.Ref{Store: "s", Name: "base"}))
	if err != nil || res.Digest == base {
		t.Errorf("digests of two processes can be compared (%v)", err)
	}
}

// A store may announce the change of every one of its secrets: what that costs must grow with their number, not with
// its square.
func TestInvalidateEachOfMany(t *testing.T) {
	const secrets = 10_000
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "s", Provider: fetchFunc(instant), Settings: resolve.Settings{MaxEntries: secrets, RequestsPerSecond: 1e9, Burst: 1e9}})
	p := policy(t)
	names := make([]string, secrets)
	for i := range names {
		names[i] = fmt.Sprint("secret-", i)
		g, err := p.Authorize(alice, scope.Ref{Store: "s", Name: names[i]})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Resolve(t.Context(), resolve.Request{Grant: g}); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	for _, name := range names {
		r.Invalidate("s", name)
	}
	if took := time.Since(begun); took > time.Second { // a walk through the cache for each takes several
		t.Errorf("took %v", took)
	}
}

// What is known of one name under several selectors is outdated together, and what is dropped from among them is gone.
func TestInvalidateEverySelector(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{CacheTTL: time.Hour, MaxEntries: 3})
		var reqs []resolve.Request
		for _, ns := range []string{"1", "2", "3", "4", "5"} { // of which the last three stay
			f.store.PutPayload(ns, "a", one(ns))
			reqs = append(reqs, readAs(t, alice, scope.Ref{Store: "s", Name: "a", Namespace: ns}))
		}
		fetches := 0
		for i, req := range reqs {
			fetches++
			f.want(req, fmt.Sprint(i+1), false, fetches)
		}
		f.want(reqs[3], "4", false, fetches) // from the middle to the front
		fetches++
		f.want(reqs[0], "1", false, fetches) // in place of the third
		f.want(reqs[4], "5", false, fetches)
		f.Invalidate("s", "a")
		for _, i := range []int{0, 3, 4} {
			fetches++
			f.want(reqs[i], fmt.Sprint(i+1), false, fetches)
			f.want(reqs[i], fmt.Sprint(i+1), false, fetches)
		}
	})
}

// An answer that a caller got with metadata of its own is not given to others: a driver may heed it.
func TestMetadataCannotPlantAnAnswer(t *testing.T) {
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "s", Provider: fetchFunc(func(_ context.Context, q providers.Query) (providers.Payload, error) {
		return one(fmt.Sprint(len(q.Metadata), q.Metadata["path"])), nil
	})})
	for _, tt := range []struct {
		metadata map[string]string
		want     string
	}{
		{map[string]string{"path": "x"}, "1x"},
		{nil, "0"},
		{map[string]string{"path": "x", "": ""}, "2x"}, // the same when all is written in a row
		{map[string]string{"path": "x"}, "1x"},
	} {
		req := read(t, "a")
		req.Metadata = tt.metadata
		res, err := r.Resolve(t.Context(), req)
		if got := string(res.Fields["k"].Reveal()); err != nil || got != tt.want {
			t.Errorf("with metadata %v: %q, %v", tt.metadata, got, err)
		}
	}
}

// What is dropped to make room is gone: nothing that the cache holds leads to it.
func TestDroppedAnswersAreFreed(t *testing.T) {
	const answers, kept, size = 2000, 10, 16 << 10
	for name, ref := range map[string]func(i int) scope.Ref{
		"many names":           func(i int) scope.Ref { return scope.Ref{Store: "s", Name: fmt.Sprint(i)} },
		"versions of one name": func(i int) scope.Ref { return scope.Ref{Store: "s", Name: "a", Version: fmt.Sprint(i)} },
	} {
		t.Run(name, func(t *testing.T) {
			r := resolve.New(resolve.Options{})
			t.Cleanup(r.Close)
			value := func(context.Context, providers.Query) (providers.Payload, error) {
				return one(strings.Repeat("x", size)), nil
			}
			r.Install(resolve.Store{Name: "s", Provider: fetchFunc(value), Settings: resolve.Settings{MaxEntries: kept, RequestsPerSecond: 1e9, Burst: 1e9}})
			for i := range answers {
				for _, again := range []int{0, 0, 3} { // the newest, the same again, and one from the middle
					req := readAs(t, alice, ref(max(i-again, 0)))
					req.Fresh = true
					if _, err := r.Resolve(t.Context(), req); err != nil {
						t.Fatal(err)
					}
				}
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > answers*size/2 {
				t.Errorf("%d MiB are in use", m.HeapAlloc>>20)
			}
			runtime.KeepAlive(r)
		})
	}
}
