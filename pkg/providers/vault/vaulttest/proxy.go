package vaulttest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands before a Server. It counts requests and, where told so, answers them itself. It has a certificate of its
// own.
type Proxy struct {
	Addr string
	CA   string // PEM

	server *httptest.Server
	mu     sync.Mutex
	fault  func(w http.ResponseWriter, r *http.Request) bool
	seen   []string
}

// NewProxy starts a proxy before s that ends with the test.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.CA))
	target, err := url.Parse(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 32}
	forward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}
	p := &Proxy{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		fault := p.fault
		p.seen = append(p.seen, r.Method+" "+r.URL.Path)
		p.mu.Unlock()
		if fault == nil || !fault(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse it are wanted
	server.StartTLS()
	t.Cleanup(func() {
		p.Break(nil)
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	p.Addr, p.server = server.URL, server
	p.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return p
}

// Break puts fault before every request; it reports whether it answered itself. Nil: none.
func (p *Proxy) Break(fault func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// Seen returns every request so far, as "METHOD /path", and forgets them.
func (p *Proxy) Seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// Disconnect ends every connection.
func (p *Proxy) Disconnect() { p.server.CloseClientConnections() }
