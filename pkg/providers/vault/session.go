package vault

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	lookupSelf = "auth/token/lookup-self"
	renewSelf  = "auth/token/renew-self"

	loginTimeout = 30 * time.Second
	// loginPause is how long after a refused login, or one whose token is refused, none is tried for the same identity.
	loginPause = 2 * time.Second
	// idleAfter is how long a token is kept alive that nobody reads with and no lease hangs on.
	idleAfter = time.Hour
)

// login is a token and how long it lives. It is immutable.
type login struct {
	token     secret.Value
	issued    time.Time // when it was asked for, so that Vault's clock does not matter
	ttl       time.Duration
	renewable bool
}

func loginOf(a authAnswer, asked time.Time) login {
	return login{token: secret.FromString(a.Token), issued: asked, ttl: time.Duration(a.TTL) * time.Second, renewable: a.Renewable}
}

// ends returns when the token expires; zero: never.
func (l login) ends() time.Time {
	if l.ttl <= 0 {
		return time.Time{}
	}
	return l.issued.Add(l.ttl)
}

func (l login) usable(now time.Time) bool {
	return l.token.Len() > 0 && (l.ttl <= 0 || now.Before(l.ends()))
}

// caller is whose rights are used: a service account, or the agent if it is zero.
type caller struct{ namespace, serviceAccount string }

// sessions keeps one login for each caller.
type sessions struct {
	asPod bool
	auth  *authenticator
	log   *slog.Logger

	mu     sync.Mutex
	all    map[caller]*session
	closed bool
}

func newSessions(c config, client *client, log *slog.Logger) *sessions {
	return &sessions{asPod: c.asPod, auth: &authenticator{config: c, client: client}, log: log, all: map[caller]*session{}}
}

// of returns as whom q is to be read.
func (s *sessions) of(q providers.Query) (reader, error) {
	var who caller
	if s.asPod {
		if q.Tokens == nil {
			return reader{}, providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens)
		}
		who = caller{q.Caller.Namespace, q.Caller.ServiceAccount}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return reader{}, errClosed
	}
	one := s.all[who]
	if one == nil {
		one = &session{who: who, set: s}
		s.all[who] = one
	}
	return reader{session: one, tokens: q.Tokens}, nil
}

// close ends all renewals.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	all := s.all
	s.all = map[caller]*session{}
	s.mu.Unlock()
	for _, one := range all {
		one.stop()
	}
}

func (s *sessions) forget(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[one.who] == one {
		delete(s.all, one.who)
	}
}

// session is the login of one caller. It renews itself in the background from the first use on.
type session struct {
	who caller
	set *sessions

	mu        sync.Mutex
	login     login
	tokens    providers.TokenSource // the last that came with a read, to log in again with
	pending   *pendingLogin
	refusal   error // of the last login, if Vault denied it
	refusedAt time.Time
	used      time.Time
	leases    map[string]leased // lease → what it hangs on
	renewal   *time.Timer
	stopped   bool
}

type pendingLogin struct {
	done  chan struct{}
	login login
	err   error
}

// reader is a session with the tokens that a read brought.
type reader struct {
	*session
	tokens providers.TokenSource
}

// do calls Vault as the caller. If Vault does not know the token any more, it logs in again, once.
func (r reader) do(ctx context.Context, req request) (answer, login, error) {
	l, err := r.current(ctx)
	if err != nil {
		return answer{}, login{}, err
	}
	req.token = l.token
	a, err := r.set.auth.client.do(ctx, req)
	if providers.KindOf(err) != providers.Denied || !r.outlived(ctx, l) {
		return a, l, err
	}
	if l, err = r.current(ctx); err != nil {
		return answer{}, login{}, err
	}
	req.token = l.token
	a, err = r.set.auth.client.do(ctx, req)
	return a, l, err
}

// current returns the login to use, which all readers of the session share. A token file is looked at every time.
func (r reader) current(ctx context.Context) (login, error) {
	if path := r.set.auth.config.auth.tokenPath; path != "" && r.set.auth.config.auth.method == methodToken {
		r.compare(path)
	}
	now := time.Now()
	r.mu.Lock()
	r.used = now
	if r.tokens != nil {
		r.session.tokens = r.tokens
	}
	if r.login.usable(now) {
		defer r.mu.Unlock()
		return r.login, nil
	}
	if r.refusal != nil && now.Sub(r.refusedAt) < loginPause {
		defer r.mu.Unlock()
		return login{}, r.refusal
	}
	p := r.pending
	if p == nil {
		p = r.begin(ctx)
	}
	r.mu.Unlock()
	select {
	case <-p.done:
		return p.login, p.err
	case <-ctx.Done():
		return login{}, providers.Errorf(providers.Unavailable, "log in: %w", ctx.Err())
	}
}

// compare drops the login if the token file has another token by now.
func (s *session) compare(path string) {
	token, err := providers.ReadCredential("vaultTokenMountPath", path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.login.token.Len() > 0 && !s.login.token.Equal(token) {
		s.login = login{}
	}
}

// begin logs in, for all who wait, whatever becomes of the first of them. The caller holds s.mu.
func (s *session) begin(ctx context.Context) *pendingLogin {
	p := &pendingLogin{done: make(chan struct{})}
	s.pending = p
	tokens := s.tokens
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loginTimeout)
		defer cancel()
		p.login, p.err = s.set.auth.login(ctx, tokens)
		s.mu.Lock()
		s.pending = nil
		if p.err != nil {
			if providers.KindOf(p.err) == providers.Denied {
				s.refusal, s.refusedAt = p.err, time.Now()
			}
		} else {
			s.refusal = nil
			s.set.log.Debug("logged in", "namespace", s.who.namespace, "service_account", s.who.serviceAccount, "ttl", p.login.ttl)
			s.take(p.login)
		}
		s.mu.Unlock()
		close(p.done)
	}()
	return p
}

// outlived reports whether another login is worth a try after l was refused: Vault does not know the token any more, or
// there is another one already. A read that Vault's policy denies costs one question, and no login.
func (s *session) outlived(ctx context.Context, l login) bool {
	s.mu.Lock()
	replaced := !s.login.token.Equal(l.token)
	s.mu.Unlock()
	if replaced {
		return true
	}
	if time.Since(l.issued) < loginPause {
		return false
	}
	_, err := s.set.auth.client.do(ctx, request{method: http.MethodGet, path: lookupSelf, token: l.token})
	if providers.KindOf(err) != providers.Denied {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.login.token.Equal(l.token) {
		s.login = login{}
	}
	return true
}

// take makes l the session's login and plans its renewal. The caller holds s.mu.
func (s *session) take(l login) {
	s.login = l
	if s.renewal != nil {
		s.renewal.Stop()
	}
	if l.ttl > 0 && !s.stopped {
		s.renewal = time.AfterFunc(time.Until(l.issued.Add(l.ttl*2/3)), func() { s.renew(l) })
	}
}

// renew prolongs l, of which two thirds have passed, or replaces it where that can't be done any more. If neither works,
// the token is used until it expires, and the next reader after that logs in.
func (s *session) renew(l login) {
	now := time.Now()
	s.mu.Lock()
	idle := now.Sub(s.used) > idleAfter && !s.holdsLeases(now)
	stale := s.stopped || !s.login.token.Equal(l.token)
	s.mu.Unlock()
	if stale {
		return
	}
	if idle {
		s.set.forget(s)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(loginTimeout, max(l.ttl/3, time.Second)))
	defer cancel()
	next, err := s.renewed(ctx, l)
	if err != nil {
		s.set.log.Warn("token not renewed", "namespace", s.who.namespace, "service_account", s.who.serviceAccount, "err", err)
		s.retryRenewal(l)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.login.token.Equal(l.token) {
		s.take(next)
	}
}

// renewed asks for more time for l. A token that has reached its longest life is followed by another login.
func (s *session) renewed(ctx context.Context, l login) (login, error) {
	if l.renewable {
		asked := time.Now()
		got, err := s.set.auth.client.do(ctx, request{method: http.MethodPost, path: renewSelf, token: l.token, body: map[string]any{}})
		if err == nil && got.Auth != nil {
			next := login{token: l.token, issued: asked, ttl: time.Duration(got.Auth.TTL) * time.Second, renewable: got.Auth.Renewable}
			if next.ttl <= 0 || next.ends().After(l.ends().Add(l.ttl/10)) {
				return next, nil
			}
		} else if providers.KindOf(err) != providers.Denied && providers.KindOf(err) != providers.Invalid {
			return login{}, err
		}
	}
	if s.set.auth.config.auth.method == methodToken && s.set.auth.config.auth.tokenPath == "" {
		return login{}, fmt.Errorf("it expires at %s, and the manifest has no way to another", l.ends().UTC().Format(time.RFC3339))
	}
	s.mu.Lock()
	tokens := s.tokens
	s.mu.Unlock()
	return s.set.auth.login(ctx, tokens)
}

// retryRenewal tries again while there is time.
func (s *session) retryRenewal(l login) {
	left := time.Until(l.ends())
	s.mu.Lock()
	defer s.mu.Unlock()
	if left > time.Second && !s.stopped && s.login.token.Equal(l.token) {
		s.renewal = time.AfterFunc(left/3, func() { s.renew(l) })
	}
}

func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.renewal != nil {
		s.renewal.Stop()
	}
}
