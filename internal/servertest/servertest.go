// Package servertest is the plumbing of fakes of stores: servers on loopback, who may do what there, which calls were made,
// and how they fail. What a store answers is each fake's own.
package servertest

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Serve starts a server on loopback that ends with the test, and with it what hangs. It speaks TLS if secure.
func Serve(t testing.TB, secure bool, h http.HandlerFunc) *httptest.Server {
	web := httptest.NewUnstartedServer(h)
	if secure {
		web.StartTLS()
	} else {
		web.Start()
	}
	t.Cleanup(func() { end(web) })
	return web
}

// ServeAt is Serve, without TLS, at a listener, which it takes over.
func ServeAt(t testing.TB, l net.Listener, h http.HandlerFunc) *httptest.Server {
	web := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}} //nolint:gosec // httptest's own is like that
	web.Start()
	t.Cleanup(func() { end(web) })
	return web
}

// ServeTLSAt is Serve, with TLS, at a listener, which it takes over. It does not mind clients that do not trust it.
func ServeTLSAt(t testing.TB, l net.Listener, h http.HandlerFunc) *httptest.Server {
	quiet := log.New(io.Discard, "", 0)
	web := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ErrorLog: quiet}} //nolint:gosec // httptest's own is like that
	web.StartTLS()
	t.Cleanup(func() { end(web) })
	return web
}

func end(web *httptest.Server) {
	web.CloseClientConnections() // hanging handlers end
	web.Close()
}

// Listen returns a listener on loopback.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Call is one request to a fake, as it was understood.
type Call struct {
	Action    string // such as "GetSecretValue"
	Name      string // of the secret; elsewhere what was asked for
	Principal string // who called; empty: nobody known
}

// Fault is how a call fails. The zero Fault breaks the connection within the answer.
type Fault struct {
	Code   string
	Status int
	Header http.Header
	Hang   bool // until the client gives up
}

// Break hangs or breaks off, if that is what the fault is: after begun and half of text, which is what the answer would have
// been. Else it writes the header and returns false: the refusal is the fake's to write.
func (f Fault) Break(w http.ResponseWriter, r *http.Request, begun, text string) bool {
	switch {
	case f.Hang:
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client goes
		<-r.Context().Done()
		return true
	case f.Code == "" && f.Status == 0:
		w.Header().Set("Content-Length", "100000")
		_, _ = io.WriteString(w, begun+text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, values := range f.Header {
		w.Header()[name] = values
	}
	return false
}

// Record counts calls, and knows which are to fail. A fake embeds it. It is safe for concurrent use.
type Record struct {
	mu    sync.Mutex
	calls []Call
	fault func(Call) *Fault
}

// Note counts a call and returns how it is to fail; nil: not at all.
func (r *Record) Note(c Call) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
	if r.fault == nil {
		return nil
	}
	return r.fault(c)
}

// Fail asks f about every later call; nil is no fault.
func (r *Record) Fail(f func(Call) *Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// FailName makes every later call for a secret fail.
func (r *Record) FailName(name string, f Fault) {
	r.Fail(func(c Call) *Fault {
		if c.Name == name {
			return &f
		}
		return nil
	})
}

// Calls returns the calls so far with the given action; an empty one stands for all.
func (r *Record) Calls(action string) []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.calls), func(c Call) bool { return action != "" && c.Action != action })
}

// Grants is what the callers of a fake may do. A fake embeds it. It is safe for concurrent use.
type Grants struct {
	mu      sync.Mutex
	allowed map[string][]grant // by principal
}

type grant struct{ action, name string }

// Allow lets a principal do an action ("secrets/*") on a name; both may hold stars.
func (g *Grants) Allow(principal, action, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.allowed == nil {
		g.allowed = map[string][]grant{}
	}
	g.allowed[principal] = append(g.allowed[principal], grant{action, name})
}

// Forbid takes everything from a principal that Allow gave.
func (g *Grants) Forbid(principal string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.allowed, principal)
}

// May tells whether the caller may do what it asks for.
func (g *Grants) May(c Call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.allowed[c.Principal], func(a grant) bool { return match(a.action, c.Action) && match(a.name, c.Name) })
}

// match tells whether name is like pattern, in which a star stands for anything.
func match(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "|"), strings.ReplaceAll(name, "/", "|"))
	return err == nil && ok
}
