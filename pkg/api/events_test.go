package api_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// quiet is a store whose answers are good for long, so that only what is announced changes.
var quiet = resolve.Settings{CacheTTL: time.Hour}

// served runs a test against a served API in a synctest bubble, with an HTTP client that has no network.
func served(t *testing.T, f func(t *testing.T) *fixture, test func(t *testing.T, f *fixture, s *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		listener := newPipes()
		stopped := make(chan error, 1)
		fixture := f(t)
		go func() { stopped <- api.New(fixture.options).Run(ctx, api.Listeners{HTTP: []net.Listener{listener}}) }()
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return listener.dial(), nil }}
		s := &server{t: t, client: &http.Client{Transport: transport}, stop: cancel, stopped: stopped}
		test(t, fixture, s)
		transport.CloseIdleConnections()
		cancel()
		synctest.Wait()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		fixture.resolver.Close()
	})
}

type server struct {
	t       *testing.T
	client  *http.Client
	stop    context.CancelFunc
	stopped chan error
}

// get sends a request, whose answer may be a stream.
func (s *server) get(target string, header ...string) *stream {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+target, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	st := &stream{Response: resp, t: s.t, cancel: cancel, lines: make(chan string, 1000)}
	go func() {
		defer close(st.lines)
		for scanner := bufio.NewScanner(resp.Body); scanner.Scan(); {
			st.lines <- scanner.Text()
		}
	}()
	return st
}

// stream is an answer that arrives line by line.
type stream struct {
	*http.Response
	t      *testing.T
	cancel context.CancelFunc
	lines  chan string
}

// new returns the lines that have arrived since the last time, and whether the answer has ended. Ids of events are
// replaced by *, and empty lines left out.
func (s *stream) new() (lines []string, ended bool) {
	for {
		synctest.Wait()
		select {
		case line, ok := <-s.lines:
			if !ok {
				return lines, true
			}
			if strings.HasPrefix(line, "id: ") {
				line = "id: *"
			}
			if line != "" {
				lines = append(lines, line)
			}
		default:
			return lines, false
		}
	}
}

// want fails the test unless exactly these lines have arrived. A line that ends in … may go on.
func (s *stream) want(want ...string) {
	s.t.Helper()
	got, ended := s.new()
	same := len(got) == len(want) && !ended
	for i := 0; same && i < len(want); i++ {
		beginning, open := strings.CutSuffix(want[i], "…")
		same = got[i] == want[i] || open && strings.HasPrefix(got[i], beginning)
	}
	if !same {
		s.t.Errorf("got %q (ended: %t), want %q", got, ended, want)
	}
}

func (s *stream) close() {
	s.cancel()
	synctest.Wait()
}

func withDB(m *providertest.Memory, settings resolve.Settings) func(t *testing.T) *fixture {
	m.Put("db", map[string]string{"user": "u", "password": "1"})
	return func(t *testing.T) *fixture { return newFixture(t).withStore("vault", m, settings) }
}

// change puts another password and announces it.
func change(f *fixture, m *providertest.Memory, password string) {
	m.Put("db", map[string]string{"user": "u", "password": password})
	f.resolver.Invalidate("vault", "db")
}

func TestEventStream(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(t *testing.T, f *fixture, s *server) {
		st := s.get("/v1.0/secrets/vault/db?watch")
		if st.StatusCode != http.StatusOK || st.Header.Get("Content-Type") != "text/event-stream" || st.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("status %d, headers %v", st.StatusCode, st.Header)
		}
		st.want(":watching", "event: secret", "id: *", `data: {"password":"1","user":"u"}`)
		time.Sleep(time.Second) // of the bubble
		st.want()
		change(f, m, "line 1\nline 2")
		st.want("event: secret", "id: *", `data: {"password":"line 1\nline 2","user":"u"}`)
		time.Sleep(15 * time.Second)
		st.want(":")
		m.Delete("db")
		f.resolver.Invalidate("vault", "db")
		st.want("event: error", `data: {"errorCode":"ERR_SECRET_GET",…`)
		change(f, m, "3")
		st.want("event: secret", "id: *", `data: {"password":"3","user":"u"}`)
		m.Put("db", map[string]string{"binary": "\xff"})
		f.resolver.Invalidate("vault", "db")
		st.want("event: error", `data: {"errorCode":"ERR_SECRET_GET","message":"failed getting secret with key db from secret store vault: the value is not UTF-8 text…`)
		f.resolver.Remove("vault")
		st.want("event: error", `data: {"errorCode":"ERR_SECRET_STORE_NOT_FOUND",…`)
		st.close()
		if n := f.countStreams(t); n != 0 {
			t.Errorf("%d subscriptions after the client went away", n)
		}
	})
}

// TestResume has a client that comes back get only what it does not have.
func TestResume(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(_ *testing.T, f *fixture, s *server) {
		tag := s.get("/v1.0/secrets/vault/db").Header.Get("Etag") // the id of an event is the entity tag of a get
		st := s.get("/v1.0/secrets/vault/db?watch=true", "Last-Event-ID", strings.Trim(tag, `"`))
		st.want(":watching")
		st.close()
		change(f, m, "2")
		change(f, m, "3")
		st = s.get("/v1.0/secrets/vault/db?watch=1", "Last-Event-ID", strings.Trim(tag, `"`))
		st.want(":watching", "event: secret", "id: *", `data: {"password":"3","user":"u"}`)
		st.close()
	})
}

func TestStaleEvents(t *testing.T) {
	m := providertest.NewMemory()
	settings := resolve.Settings{CacheTTL: time.Minute, StaleFor: time.Hour}
	served(t, withDB(m, settings), func(_ *testing.T, _ *fixture, s *server) {
		st := s.get("/v1.0/secrets/vault/db?watch")
		st.want(":watching", "event: secret", "id: *", `data: {"password":"1","user":"u"}`)
		m.Fail(providers.Errorf(providers.Unavailable, "down"))
		time.Sleep(70 * time.Second) // of the bubble
		st.want(":", ":", ":", ":", "event: stale", "data: true")
		m.Fail(nil)
		time.Sleep(40 * time.Second)
		lines, _ := st.new()
		if got := strings.Join(lines, " "); !strings.Contains(got, "event: stale data: false") || strings.Contains(got, "secret") {
			t.Errorf("after the store came back: %q", got)
		}
		st.close()
	})
}

// TestStreamEnds covers what ends a stream: each says why, in a last event.
func TestStreamEnds(t *testing.T) {
	attested := true
	for name, tc := range map[string]struct {
		end  func(f *fixture, s *server)
		want string
	}{
		"a policy that denies": {func(f *fixture, _ *server) {
			f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"db"}}}
			f.setPolicy()
		}, `{"errorCode":"ERR_PERMISSION_DENIED"`},
		"a policy without the store": {func(f *fixture, _ *server) {
			f.rules.Stores = nil
			f.setPolicy()
		}, `{"errorCode":"ERR_SECRET_STORES_NOT_CONFIGURED"`},
		"a token that expired": {func(f *fixture, _ *server) {
			attested = false
			f.watches.PolicyChanged() // anything that makes it look
		}, `{"errorCode":"ERR_UNAUTHENTICATED"`},
		"the agent's end": {func(_ *fixture, s *server) { s.stop() }, `{"errorCode":"ERR_STOPPING"`},
	} {
		t.Run(name, func(t *testing.T) {
			attested = true
			m := providertest.NewMemory()
			withAttest := func(t *testing.T) *fixture {
				f := withDB(m, quiet)(t)
				f.options.Attest = func(context.Context, api.Evidence) (scope.Identity, error) {
					if !attested {
						return scope.Identity{}, context.DeadlineExceeded
					}
					return scope.Identity{AppID: appID}, nil
				}
				return f
			}
			served(t, withAttest, func(t *testing.T, f *fixture, s *server) {
				st := s.get("/v1.0/secrets/vault/db?watch")
				st.want(":watching", "event: secret", "id: *", `data: {"password":"1","user":"u"}`)
				change(f, m, "2")
				st.want("event: secret", "id: *", `data: {"password":"2","user":"u"}`)
				tc.end(f, s)
				m.Put("db", map[string]string{"password": "never told"})
				lines, ended := st.new()
				if !ended || len(lines) != 2 || lines[0] != "event: end" || !strings.HasPrefix(lines[1], "data: "+tc.want) {
					t.Errorf("ended: %t, %q", ended, lines)
				}
				st.close()
			})
		})
	}
}

// TestRevokedIsAudited has the denial that ends a stream on record.
func TestRevokedIsAudited(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(t *testing.T, f *fixture, s *server) {
		st := s.get("/v1.0/secrets/vault/db?watch")
		st.new()
		f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"db"}}}
		f.setPolicy()
		st.new()
		st.close()
		if got := f.audit.denied; len(got) != 1 || got[0] != "api checkout vault db" {
			t.Errorf("denials on record: %q", got)
		}
	})
}

// TestStreamLimit has a caller that watches too much be refused, and only it.
func TestStreamLimit(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(t *testing.T, _ *fixture, s *server) {
		var open []*stream
		for range 8 {
			open = append(open, s.get("/v1.0/secrets/vault/db?watch"))
		}
		st := s.get("/v1.0/secrets/vault/db?watch")
		if lines, _ := st.new(); st.StatusCode != http.StatusTooManyRequests || !strings.Contains(strings.Join(lines, ""), "ERR_WATCH_LIMIT") {
			t.Errorf("status %d: %q", st.StatusCode, lines)
		}
		for _, st := range open {
			st.close()
		}
		st = s.get("/v1.0/secrets/vault/db?watch")
		if st.StatusCode != http.StatusOK {
			t.Errorf("after others have left: status %d", st.StatusCode)
		}
		st.close()
	})
}

// TestSlowReader has a client that takes nothing hold neither another client nor the agent's end up.
func TestSlowReader(t *testing.T) {
	m := providertest.NewMemory()
	served(t, withDB(m, quiet), func(t *testing.T, f *fixture, s *server) {
		conn, err := s.client.Transport.(*http.Transport).DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("GET /v1.0/secrets/vault/db?watch HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		st := s.get("/v1.0/secrets/vault/db?watch")
		st.want(":watching", "event: secret", "id: *", `data: {"password":"1","user":"u"}`)
		for _, password := range []string{"2", "3"} {
			change(f, m, password)
			st.want("event: secret", "id: *", `data: {"password":"`+password+`","user":"u"}`)
		}
		time.Sleep(11 * time.Second) // of the bubble: longer than a client may take
		if n := f.countStreams(t); n != 1 {
			t.Errorf("%d subscriptions, want that of the client that reads", n)
		}
		st.close()
	})
}
