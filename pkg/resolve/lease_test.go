package resolve_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// issuer makes a numbered secret for each read, under a lease of ten minutes.
type issuer struct {
	issued  int
	revoked []string
	dead    bool // it knows no lease
}

func (i *issuer) Fetch(context.Context, providers.Query) (providers.Payload, error) {
	i.issued++
	n := fmt.Sprint(i.issued)
	return providers.Payload{
		Fields: map[string]secret.Value{"k": secret.FromString(n)}, Issued: true,
		Lease: &providers.Lease{ID: "lease-" + n, Duration: 10 * time.Minute, Renewable: true}, NotAfter: time.Now().Add(10 * time.Minute),
	}, nil
}

func (i *issuer) Renew(_ context.Context, _ providers.Query, l providers.Lease) (providers.Lease, error) {
	if i.dead {
		return l, providers.Errorf(providers.NotFound, "no such lease")
	}
	l.Duration, l.Renewable = 10*time.Minute, true
	return l, nil
}

func (i *issuer) Revoke(_ context.Context, _ providers.Query, l providers.Lease) error {
	i.revoked = append(i.revoked, l.ID)
	return nil
}

func (i *issuer) Close() error { return nil }

func issuing(t *testing.T) (*resolve.Resolver, *issuer) {
	t.Helper()
	r, i := resolve.New(resolve.Options{}), &issuer{}
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "s", Provider: i, Settings: resolve.Settings{CacheTTL: time.Second}})
	return r, i
}

func issuedTo(t *testing.T, r *resolve.Resolver, req resolve.Request) string {
	t.Helper()
	res, err := r.Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return string(res.Fields["k"].Reveal())
}

// TestIssuedOnce: what a store issues outlives the cache, a fresh read and the opening of the store again.
func TestIssuedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, i := issuing(t)
		req := read(t, "a")
		req.Origin = "volume"
		fresh, own := req, req
		fresh.Fresh, own.Own = true, "v1"
		issuedTo(t, r, req)
		advance(time.Minute)
		if a, b := issuedTo(t, r, req), issuedTo(t, r, fresh); a != "1" || b != "1" {
			t.Errorf("later %q, fresh %q", a, b)
		}
		if got := issuedTo(t, r, own); got != "2" {
			t.Errorf("own: %q", got)
		}
		r.Invalidate("s", "a")
		r.Install(resolve.Store{Name: "s", Provider: i})
		if a, b := issuedTo(t, r, req), issuedTo(t, r, own); a != "1" || b != "2" {
			t.Errorf("after the store was opened again: %q, own %q", a, b)
		}
		if !r.Shared(req, fresh) || r.Shared(req, own) {
			t.Error("Shared is wrong")
		}
	})
}

// TestIssuedIsReplacedInTime: a reader that comes when two thirds have passed does not get what is about to end.
func TestIssuedIsReplacedInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, i := issuing(t)
		r.Install(resolve.Store{Name: "s", Provider: i, Settings: resolve.Settings{CacheTTL: time.Hour}})
		req := read(t, "a")
		issuedTo(t, r, req)
		i.dead = true
		advance(6 * time.Minute)
		if got := issuedTo(t, r, req); got != "1" {
			t.Errorf("early: %q", got)
		}
		advance(time.Minute)
		if got := issuedTo(t, r, req); got != "2" {
			t.Errorf("late: %q", got)
		}
	})
}

func TestRelease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, i := issuing(t)
		volume, api := read(t, "a"), read(t, "b")
		volume.Origin = "volume"
		issuedTo(t, r, volume)
		issuedTo(t, r, api)
		api.Origin = "volume"
		r.Release(volume)
		r.Release(api) // a caller of the API has it too
		r.Release(resolve.Request{})
		synctest.Wait()
		if len(i.revoked) != 1 || i.revoked[0] != "lease-1" {
			t.Errorf("revoked %q", i.revoked)
		}
		if a, b := issuedTo(t, r, volume), issuedTo(t, r, api); a != "3" || b != "2" {
			t.Errorf("after Release: %q and %q", a, b)
		}
	})
}

func TestAdopt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, i := issuing(t)
		req := read(t, "a")
		p := providers.Payload{
			Fields: map[string]secret.Value{"k": secret.FromString("old")}, Issued: true,
			Lease: &providers.Lease{ID: "lease-0", Duration: 10 * time.Minute}, NotAfter: time.Now().Add(10 * time.Minute),
		}
		if err := r.Adopt(t.Context(), resolve.Request{}, p, time.Now()); !errors.Is(err, resolve.ErrNotGranted) {
			t.Errorf("without a grant: %v", err)
		}
		elsewhere := readAs(t, alice, scope.Ref{Store: "other", Name: "a"})
		wantError(t, r.Adopt(t.Context(), elsewhere, p, time.Now()), elsewhere, providers.Unavailable)
		if err := r.Adopt(t.Context(), req, p, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := issuedTo(t, r, req); got != "old" || i.issued != 0 {
			t.Errorf("read %q, issued %d", got, i.issued)
		}
		i.dead = true
		other := read(t, "b")
		wantError(t, r.Adopt(t.Context(), other, p, time.Now()), other, providers.NotFound)
	})
	f := newFixture(t, resolve.Settings{})
	wantError(t, f.Adopt(t.Context(), read(t, "a"), providers.Payload{}, time.Now()), read(t, "a"), providers.NotFound)
}
