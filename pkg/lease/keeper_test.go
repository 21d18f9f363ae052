package lease_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/lease"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// store issues numbered users. It writes down what it is asked.
type store struct {
	ttl, longest time.Duration // of a lease, and of all its renewals
	fixed        bool          // leases can't be renewed
	certificate  bool          // instead of leases: valid for ttl
	plain        bool          // nothing is issued
	alone        func() time.Time
	fail         error
	took         time.Duration // to answer

	mu     sync.Mutex
	log    []string
	issued int
	born   map[string]time.Time // lease → when it was made
}

func (s *store) note(format string, args ...any) error {
	s.mu.Lock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
	s.mu.Unlock()
	if s.took > 0 {
		time.Sleep(s.took)
	}
	return s.fail
}

// asked returns what the store was asked since the last call.
func (s *store) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.Join(s.log, " ")
	s.log = nil
	return text
}

func (s *store) Fetch(context.Context, providers.Query) (providers.Payload, error) {
	if err := s.note("issue"); err != nil {
		return providers.Payload{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	id := strconv.Itoa(s.issued)
	p := providers.Payload{Fields: map[string]secret.Value{"user": secret.FromString(id)}, Issued: !s.plain}
	switch {
	case s.plain:
	case s.certificate:
		p.NotAfter = time.Now().Add(s.ttl)
	default:
		if s.born == nil {
			s.born = map[string]time.Time{}
		}
		s.born[id] = time.Now()
		p.Lease = &providers.Lease{ID: id, Duration: s.ttl, Renewable: !s.fixed}
		if s.alone != nil {
			p.Lease.Alone = s.alone()
		}
	}
	return p, nil
}

func (s *store) Renew(_ context.Context, _ providers.Query, l providers.Lease) (providers.Lease, error) {
	if err := s.note("renew:%s", l.ID); err != nil {
		return providers.Lease{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	born, ok := s.born[l.ID]
	if !ok {
		return providers.Lease{}, providers.Errorf(providers.NotFound, "no such lease")
	}
	l.Duration, l.Renewable, l.Alone = min(s.ttl, time.Until(born.Add(s.longest))), !s.fixed, time.Time{}
	if s.alone != nil {
		l.Alone = s.alone()
	}
	return l, nil
}

func (s *store) Revoke(_ context.Context, _ providers.Query, l providers.Lease) error {
	return s.note("revoke:%s", l.ID)
}

func (s *store) Close() error { return nil }

// user fetches and returns the number of the user.
func user(t *testing.T, k *lease.Keeper[string], key string) string {
	t.Helper()
	p, err := k.Fetch(t.Context(), key, providers.Query{Name: "db"})
	if err != nil {
		t.Errorf("fetch: %v", err)
	}
	return string(p.Fields["user"].Reveal())
}

// walk fetches once a minute, for some minutes, and returns what happened at which: "minute:user[ what the store was asked]".
func walk(t *testing.T, s *store, k *lease.Keeper[string], minutes int) []string {
	t.Helper()
	var all []string
	for m := range minutes {
		got := user(t, k, "k")
		if asked := s.asked(); asked != "" {
			all = append(all, fmt.Sprintf("%d:%s %s", m, got, asked))
		}
		time.Sleep(time.Minute)
	}
	return all
}

func TestLives(t *testing.T) {
	for name, tt := range map[string]struct {
		store *store
		want  []string
	}{
		"renewed at two thirds, then replaced before its longest life ends": {
			&store{ttl: 30 * time.Minute, longest: 70 * time.Minute},
			[]string{"0:1 issue", "20:1 renew:1", "40:1 renew:1", "60:1 renew:1", "67:2 issue", "87:2 renew:2"},
		},
		"a lease that can't be renewed": {
			&store{ttl: 30 * time.Minute, fixed: true},
			[]string{"0:1 issue", "20:2 issue", "40:3 issue", "60:4 issue", "80:5 issue"},
		},
		"a certificate is made again only near its end": {
			&store{ttl: 75 * time.Minute, certificate: true},
			[]string{"0:1 issue", "50:2 issue"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := walk(t, tt.store, lease.New[string](tt.store), 90)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestWhatItHangsOn: a lease ends with the token that it was given to, unless that is prolonged.
func TestWhatItHangsOn(t *testing.T) {
	for name, tt := range map[string]struct {
		prolonged bool
		want      []string
	}{
		"prolonged": {true, []string{"0:1 issue", "20:1 renew:1", "40:1 renew:1", "60:1 renew:1", "80:1 renew:1"}},
		"left":      {false, []string{"0:1 issue", "20:1 renew:1", "21:1 renew:1", "22:1 renew:1", "23:2 renew:1 issue"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := time.Now().Add(30 * time.Minute)
				s := &store{ttl: 10 * time.Hour, longest: 100 * time.Hour}
				s.alone = func() time.Time {
					if s.issued == 0 || !tt.prolonged {
						return first
					}
					return time.Now().Add(30 * time.Minute)
				}
				got := walk(t, s, lease.New[string](s), 90)
				if len(got) > len(tt.want) {
					got = got[:len(tt.want)]
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestSharedByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: time.Hour, longest: time.Hour, took: time.Second}
		k := lease.New[string](s)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				key := []string{"a", "b"}[i%2]
				user(t, k, key)
			})
		}
		wg.Wait()
		if got := s.asked(); got != "issue issue" {
			t.Errorf("20 readers under 2 keys: %s", got)
		}
		a, _ := k.Fetch(t.Context(), "a", providers.Query{})
		a.Fields["user"] = secret.FromString("changed")
		if got := user(t, k, "a"); got == "changed" {
			t.Error("a reader changed what others get")
		}
		if a.Lease == nil || a.Lease.Duration > time.Hour || a.NotAfter.IsZero() || !a.Issued {
			t.Errorf("answer %+v", a)
		}
	})
}

// TestFailingStore: an error is told, and what is kept is given out again afterwards.
func TestFailingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: 30 * time.Minute, longest: 10 * time.Hour}
		k := lease.New[string](s)
		user(t, k, "k")
		s.fail = providers.Errorf(providers.Unavailable, "down")
		time.Sleep(10 * time.Minute)
		if got := user(t, k, "k"); got != "1" { // nothing is due
			t.Errorf("user %q", got)
		}
		time.Sleep(12 * time.Minute)
		if _, err := k.Fetch(t.Context(), "k", providers.Query{}); !errors.Is(err, s.fail) {
			t.Errorf("error %v", err)
		}
		s.fail = nil
		if got := user(t, k, "k"); got != "1" {
			t.Errorf("user %q after the store is back", got)
		}
		s.asked()
		s.born = nil // revoked by somebody
		time.Sleep(25 * time.Minute)
		if got := user(t, k, "k"); got != "2" || s.asked() != "renew:1 issue" {
			t.Errorf("user %q after the lease was revoked", got)
		}
	})
}

func TestPlainAnswersAreNotKept(t *testing.T) {
	s := &store{plain: true}
	k := lease.New[string](s)
	if user(t, k, "k") != "1" || user(t, k, "k") != "2" {
		t.Error("an answer that was not issued was kept")
	}
}

// TestDrop: the lease that is kept ends, and those that it replaced.
func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: 30 * time.Minute, fixed: true}
		k := lease.New[string](s)
		user(t, k, "k")
		time.Sleep(21 * time.Minute)
		user(t, k, "k")
		s.asked()
		if err := k.Drop(t.Context(), "k", providers.Query{}); err != nil || s.asked() != "revoke:1 revoke:2" {
			t.Errorf("Drop: %v", err)
		}
		if err := k.Drop(t.Context(), "k", providers.Query{}); err != nil || s.asked() != "" {
			t.Errorf("Drop of nothing: %v", err)
		}
		if got := user(t, k, "k"); got != "3" {
			t.Errorf("user %q after Drop", got)
		}
	})
}

// TestAdopt goes on with what an earlier Keeper has issued, if it is alive.
func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: 30 * time.Minute, longest: 10 * time.Hour}
		earlier := lease.New[string](s)
		p, err := earlier.Fetch(t.Context(), "k", providers.Query{})
		if err != nil {
			t.Fatal(err)
		}
		s.asked()
		asked := time.Now()
		time.Sleep(5 * time.Minute)
		k := lease.New[string](s)
		if err := k.Adopt(t.Context(), "k", providers.Query{}, p, asked); err != nil || s.asked() != "renew:1" {
			t.Errorf("Adopt: %v", err)
		}
		if got := user(t, k, "k"); got != "1" || s.asked() != "" {
			t.Errorf("user %q", got)
		}
		other := p
		other.Fields = nil
		if err := k.Adopt(t.Context(), "k", providers.Query{}, other, asked); err != nil || user(t, k, "k") != "1" {
			t.Errorf("Adopt over what is kept: %v", err)
		}

		s.fail = providers.Errorf(providers.Unavailable, "down")
		third := lease.New[string](s)
		if err := third.Adopt(t.Context(), "k", providers.Query{}, p, asked); !errors.Is(err, s.fail) {
			t.Errorf("Adopt while the store is down: %v", err)
		}
		s.fail, s.born = nil, nil
		if err := third.Adopt(t.Context(), "k", providers.Query{}, p, asked); providers.KindOf(err) != providers.NotFound {
			t.Errorf("Adopt of a dead lease: %v", err)
		}
		s.asked()
		time.Sleep(time.Hour)
		if err := third.Adopt(t.Context(), "k", providers.Query{}, p, asked); providers.KindOf(err) != providers.NotFound || s.asked() != "" {
			t.Errorf("Adopt after its end: %v", err)
		}
	})
}

// TestAdoptCertificate needs no store.
func TestAdoptCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: 30 * time.Minute, certificate: true}
		p, _ := lease.New[string](s).Fetch(t.Context(), "k", providers.Query{})
		asked := time.Now()
		s.asked()
		time.Sleep(5 * time.Minute)
		k := lease.New[string](s)
		if err := k.Adopt(t.Context(), "k", providers.Query{}, p, asked); err != nil || user(t, k, "k") != "1" || s.asked() != "" {
			t.Errorf("Adopt: %v", err)
		}
		time.Sleep(16 * time.Minute)
		if got := user(t, k, "k"); got != "2" {
			t.Errorf("certificate %q near the end of the first", got)
		}
	})
}

// TestInherit: a store that is opened again goes on with its leases, after asking for each whether it lives.
func TestInherit(t *testing.T) {
	s := &store{ttl: time.Hour, longest: 10 * time.Hour}
	k := lease.New[string](s)
	user(t, k, "a")
	user(t, k, "b")
	delete(s.born, "2")
	s.asked()
	next := lease.New[string](s)
	next.Inherit(k)
	if a, b := user(t, next, "a"), user(t, next, "b"); a != "1" || b != "3" || s.asked() != "renew:1 renew:2 issue" {
		t.Errorf("users %q and %q", a, b)
	}
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: time.Hour, took: time.Minute}
		k := lease.New[string](s)
		go user(t, k, "k")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.Fetch(ctx, "k", providers.Query{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		time.Sleep(2 * time.Minute)
	})
}

// TestBounded: what has ended is forgotten, and no more is issued than can be kept.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{ttl: time.Hour, fixed: true}
		k := lease.New[string](s)
		fill := func(prefix string) (issued int) {
			for i := range 11_000 {
				_, err := k.Fetch(t.Context(), prefix+strconv.Itoa(i), providers.Query{})
				switch {
				case err == nil:
					issued++
				case providers.KindOf(err) != providers.Throttled:
					t.Fatal(err)
				}
			}
			return issued
		}
		if n := fill("a"); n != 10_000 {
			t.Errorf("%d were issued", n)
		}
		if got := user(t, k, "a1"); got != "2" {
			t.Errorf("what is kept: %q", got)
		}
		time.Sleep(2 * time.Hour)
		if n := fill("b"); n != 10_000 {
			t.Errorf("%d were issued after the others had ended", n)
		}
	})
}

func TestHand(t *testing.T) {
	s := &store{ttl: time.Hour}
	k := lease.New[string](s)
	k.Hand("a") // nothing is kept
	user(t, k, "a")
	if k.Handed("a") {
		t.Error("handed before it was issued")
	}
	k.Hand("a")
	next := lease.New[string](s)
	next.Inherit(k)
	if !k.Handed("a") || !next.Handed("a") || k.Handed("b") {
		t.Error("Handed is wrong")
	}
}
