package resolve_test

import (
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
)

// TestKnownContentIsNotTransferredAgain refreshes a secret that stays as it is: the store is asked each time, and the
// value crosses the wire once, until it has been trusted for an hour.
func TestKnownContentIsNotTransferredAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{CacheTTL: 10 * time.Minute})
		f.put("a", "1")
		first := f.want(read(t, "a"), "1", false, 1)
		for i := range 5 {
			advance(10 * time.Minute)
			res := f.want(read(t, "a"), "1", false, i+2)
			if res.Digest != first.Digest || res.Version != first.Version || res.Unchanged || !res.FetchedAt.Equal(time.Now()) {
				t.Errorf("confirmed content is %+v, want the first, fetched now", res)
			}
		}
		if n := f.store.Transfers(); n != 1 {
			t.Errorf("the value was transferred %d times, want once", n)
		}
		advance(10 * time.Minute)
		f.want(read(t, "a"), "1", false, 7)
		if n := f.store.Transfers(); n != 2 {
			t.Errorf("after an hour the value was transferred %d times, want twice", n)
		}
		f.put("a", "2")
		advance(10 * time.Minute)
		f.want(read(t, "a"), "2", false, 8)
	})
}

// TestConfirmedContentTakesWhatElseIsNew checks that an end of validity that was added without a new version holds.
func TestConfirmedContentTakesWhatElseIsNew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{CacheTTL: time.Minute})
		put := func(notAfter time.Time) {
			p := providers.Payload{Fields: providertest.Payload(map[string]string{"k": "1"}).Fields, Version: "v", NotAfter: notAfter}
			f.store.PutPayload("", "a", p)
		}
		put(time.Time{})
		f.want(read(t, "a"), "1", false, 1)
		advance(time.Minute)
		end := time.Now().Add(time.Second)
		put(end)
		if res := f.want(read(t, "a"), "1", false, 2); !res.NotAfter.Equal(end) {
			t.Errorf("valid until %v, want %v", res.NotAfter, end)
		}
		if n := f.store.Transfers(); n != 1 {
			t.Errorf("the value was transferred %d times, want once", n)
		}
	})
}

// TestNothingIsKnownAfterRefusal checks that a secret that was withdrawn is read in full when it comes back.
func TestNothingIsKnownAfterRefusal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{CacheTTL: time.Minute, NegativeTTL: time.Second})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		f.store.FailName("a", providers.Errorf(providers.Denied, "no"))
		advance(time.Minute)
		f.wantKind(read(t, "a"), providers.Denied, 2)
		f.store.FailName("a", nil)
		advance(time.Second)
		f.want(read(t, "a"), "1", false, 3)
		for i, known := range []string{"", "1", ""} {
			if q := f.store.Queries()[i]; q.Known != known {
				t.Errorf("query %d knows version %q, want %q", i, q.Known, known)
			}
		}
	})
}

func TestUnchangedWithoutKnownIsAnError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFixture(t, resolve.Settings{})
		f.store.PutPayload("", "a", providers.Payload{Unchanged: true})
		f.wantKind(read(t, "a"), providers.Unknown, 2)
	})
}
