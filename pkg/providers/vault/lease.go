package vault

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// leased is the token that a lease was given to: Vault ends it with the token.
type leased struct {
	token secret.Value
	until time.Time // of the lease
	ends  time.Time // of the token, as of when it was the session's last; zero: never
}

// holdsLeases tells whether a lease hangs on a token of the session. The caller holds s.mu.
func (s *session) holdsLeases(now time.Time) bool {
	maps.DeleteFunc(s.leases, func(_ string, l leased) bool { return now.After(l.until) })
	return len(s.leases) > 0
}

// hold notes that a lease hangs on a token, and keeps the token alive for as long as it lasts.
func (s *session) hold(lease string, l login, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdsLeases(time.Now())
	if s.leases == nil {
		s.leases = map[string]leased{}
	}
	s.leases[lease] = leased{token: l.token, until: until, ends: l.ends()}
}

// prolonged notes that a lease lasts longer, and returns until when its token does if nobody renews that: nobody does if the
// session has another by now. Zero: the token does not end, or another process has it.
func (s *session) prolonged(lease string, until time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.leases[lease]
	if !ok {
		return time.Time{}
	}
	l.until = until
	current := l.token.Equal(s.login.token)
	if current {
		l.ends = s.login.ends()
	}
	s.leases[lease] = l
	if !current {
		return l.ends
	}
	return s.alone(s.login)
}

// alone returns when a login ends that nobody renews. The one in the manifest is found again after a restart; one in a file
// may be replaced there by then.
func (s *session) alone(l login) time.Time {
	if auth := s.set.auth.config.auth; auth.method == methodToken && auth.tokenPath == "" {
		return time.Time{}
	}
	return l.ends()
}

func (s *session) released(lease string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, lease)
}

// leaseOf returns the lease that an answer came with.
func (s *session) leaseOf(a answer, l login, asked time.Time) *providers.Lease {
	lease := &providers.Lease{ID: a.LeaseID, Duration: time.Duration(a.LeaseDuration) * time.Second, Renewable: a.Renewable, Alone: s.alone(l)}
	s.hold(lease.ID, l, asked.Add(lease.Duration))
	return lease
}

// Renew prolongs a lease. Where that is not allowed, or not possible, it asks what is left.
func (s *store) Renew(ctx context.Context, q providers.Query, l providers.Lease) (providers.Lease, error) {
	if err := s.accepts(ctx, q); err != nil {
		return providers.Lease{}, err
	}
	who, err := s.sessions.of(q)
	if err != nil {
		return providers.Lease{}, err
	}
	body := map[string]any{"lease_id": l.ID}
	asked, left := time.Now(), providers.Lease{ID: l.ID}
	if l.Renewable {
		var a answer
		a, _, err = who.do(ctx, request{method: http.MethodPost, path: "sys/leases/renew", body: body})
		left.Duration, left.Renewable = time.Duration(a.LeaseDuration)*time.Second, a.Renewable
	}
	if !l.Renewable || refused(err) {
		var a answer
		a, _, err = who.do(ctx, request{method: http.MethodPost, path: "sys/leases/lookup", body: body})
		left.Duration = time.Duration(number(a.Data["ttl"])) * time.Second
		if refused(err) || err == nil && left.Duration <= 0 {
			return providers.Lease{}, providers.Errorf(providers.NotFound, "Vault knows no such lease, or the token may neither renew nor look it up")
		}
	}
	if err != nil {
		return providers.Lease{}, err
	}
	left.Alone = who.prolonged(l.ID, asked.Add(left.Duration))
	return left, nil
}

// refused tells whether an error is an answer, in which Vault has nothing, or nothing for this token.
func refused(err error) bool {
	switch providers.KindOf(err) {
	case providers.Denied, providers.Invalid, providers.NotFound:
		return true
	default:
		return false
	}
}

// Revoke ends a lease. Vault's policy has to allow it: the default one does not.
func (s *store) Revoke(ctx context.Context, q providers.Query, l providers.Lease) error {
	if err := s.accepts(ctx, q); err != nil {
		return err
	}
	who, err := s.sessions.of(q)
	if err != nil {
		return err
	}
	_, _, err = who.do(ctx, request{method: http.MethodPost, path: "sys/leases/revoke", body: map[string]any{"lease_id": l.ID}})
	if providers.KindOf(err) == providers.Invalid || providers.KindOf(err) == providers.NotFound {
		err = nil // it has ended
	}
	if err == nil {
		who.released(l.ID)
	}
	return err
}
