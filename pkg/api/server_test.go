package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

func TestUnixSockets(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	f := newFixture(t).withStore("vault", m)
	dir := t.TempDir()
	addresses := api.Addresses{HTTP: []string{"256.0.0.1:1"}, SocketDir: dir, AppID: appID} // the TCP address is not used
	leftover := filepath.Join(dir, "dapr-checkout-http.socket")
	abandon(t, leftover)

	l, err := api.Listen(t.Context(), addresses)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(t.Context(), addresses); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("second agent: %v", err)
	}
	srv := f.serve(l)
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", leftover)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://x/v1.0/secrets/vault/db")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "{\"db\":\"x\"}\n" {
		t.Errorf("HTTP: %s", body)
	}
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "dapr-checkout-grpc.socket"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := runtimev1pb.NewDaprClient(conn).GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "db"}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	srv.stop()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// abandon leaves a socket at path that nobody listens to.
func abandon(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
}

func TestListenFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dapr-x-grpc.socket"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]api.Addresses{
		"not a socket":      {SocketDir: dir, AppID: "x"},
		"app id is a path":  {SocketDir: dir, AppID: "../x"},
		"missing directory": {SocketDir: filepath.Join(dir, "none"), AppID: "x"},
		"bad address":       {HTTP: []string{"127.0.0.1:0"}, GRPC: []string{"127.0.0.1:99999"}},
	} {
		if l, err := api.Listen(t.Context(), a); err == nil {
			t.Errorf("%s: listens on %v", name, l)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "dapr-x-http.socket")); !os.IsNotExist(err) {
		t.Errorf("the first socket stayed open: %v", err)
	}
}

// TestH2C speaks HTTP/2 without TLS and without an upgrade, as Dapr's clients may.
func TestH2C(t *testing.T) {
	srv := newFixture(t).withStore("vault", providertest.NewMemory()).run()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{Protocols: protocols}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + srv.http + "/v1.0/secrets/vault/bulk")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.ProtoMajor != 2 || string(body) != "{}\n" {
		t.Errorf("HTTP/%d: %s", resp.ProtoMajor, body)
	}
}

func TestHeaderLimit(t *testing.T) {
	srv := newFixture(t).run()
	got := srv.raw(t, "GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: "+strings.Repeat("x", 4000)+"\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 204") {
		t.Errorf("4 kB of headers: %q", got)
	}
	got = srv.raw(t, "GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("9 kB of headers: %q", got)
	}
}

// pipes is a listener whose connections are in memory, so that they can live in a synctest bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// TestKeepalive is a client that pings every 10 seconds without a call, as Dapr's SDKs are configured to: it is not cut
// off before it has been idle for 3 minutes, and it is pinged itself.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFixture(t)
		grpcPipes := newPipes()
		stopped := make(chan error)
		go func() { stopped <- api.New(f.options).Run(ctx, api.Listeners{GRPC: []net.Listener{grpcPipes}}) }()
		conn := grpcPipes.dial()
		begun := time.Now()
		framer := http2.NewFramer(conn, conn)
		var writing sync.Mutex
		write := func(f func() error) {
			writing.Lock()
			defer writing.Unlock()
			_ = f() // fails after the server has closed
		}
		go func() {
			write(func() error { _, err := io.WriteString(conn, http2.ClientPreface); return err })
			write(func() error { return framer.WriteSettings() })
			for i := byte(0); ctx.Err() == nil; i++ {
				write(func() error { return framer.WritePing(false, [8]byte{i}) })
				select {
				case <-time.After(10 * time.Second): // of the bubble
				case <-ctx.Done():
				}
			}
		}()
		answered, pinged := 0, 0
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatalf("after %v: %v", time.Since(begun), err)
			}
			if bye, ok := frame.(*http2.GoAwayFrame); ok {
				if bye.ErrCode != http2.ErrCodeNo || time.Since(begun) != 3*time.Minute {
					t.Errorf("after %v: %v %s", time.Since(begun), bye.ErrCode, bye.DebugData())
				}
				break
			}
			ping, ok := frame.(*http2.PingFrame)
			switch {
			case ok && ping.IsAck():
				answered++
			case ok:
				pinged++
				write(func() error { return framer.WritePing(true, ping.Data) })
			}
		}
		if answered < 17 {
			t.Errorf("%d of the client's pings were answered", answered)
		}
		_ = conn.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestStop(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	release := m.Hang()
	f := newFixture(t).withStore("vault", m)
	srv := f.run()
	client, _ := srv.client(t)
	type result struct {
		status int
		err    error
	}
	httpDone, grpcDone := make(chan result, 1), make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + srv.http + "/v1.0/secrets/vault/db")
		if err != nil {
			httpDone <- result{err: err}
			return
		}
		_ = resp.Body.Close()
		httpDone <- result{status: resp.StatusCode}
	}()
	go func() {
		_, err := client.GetSecret(context.Background(), &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "db", Metadata: map[string]string{"version_id": "1"}})
		grpcDone <- err
	}()
	for m.Fetches("db") < 2 { // both are under way
		select {
		case r := <-httpDone:
			t.Fatalf("HTTP call did not wait: %v", r)
		case err := <-grpcDone:
			t.Fatalf("gRPC call did not wait: %v", err)
		default:
		}
	}
	stopped := make(chan struct{})
	go func() { srv.stop(); close(stopped) }()
	for { // stopping has begun when nobody can connect any more
		conn, err := net.Dial("tcp", srv.http)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	release()
	if r := <-httpDone; r.status != 200 {
		t.Errorf("HTTP call under way: %+v", r)
	}
	if err := <-grpcDone; err != nil {
		t.Errorf("gRPC call under way: %v", err)
	}
	<-stopped
}

// TestRunFails checks that a broken listener ends Run.
func TestRunFails(t *testing.T) {
	f := newFixture(t)
	l, err := api.Listen(t.Context(), api.Addresses{HTTP: []string{"127.0.0.1:0"}, GRPC: []string{"127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = l.GRPC[0].Close()
	if err := api.New(f.options).Run(t.Context(), l); err == nil || !strings.Contains(err.Error(), "serve gRPC on 127.0.0.1") {
		t.Errorf("Run: %v", err)
	}
}

// TestCanary plants a value and looks for it everywhere but in the answer that it belongs to.
func TestCanary(t *testing.T) {
	const canary = "c4n4ry"
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": canary})
	m.Put("binary", map[string]string{"binary": canary + "\xff"})
	m.PutPayload("", "versioned", providers.Payload{Fields: map[string]secret.Value{"versioned": secret.FromString(canary)}, Version: "v1"})
	f := newFixture(t).withStore("vault", m)
	f.options.Token = secret.FromString(canary + "-token")
	h := api.New(f.options).Handler()
	for _, path := range []string{"db", "versioned", "bulk"} {
		if w := do(h, "GET", "/v1.0/secrets/vault/"+path, "dapr-api-token", canary+"-token"); !strings.Contains(w.Body.String(), canary) {
			t.Errorf("%s: the canary is not where it belongs: %s", path, w.Body)
		}
	}
	failed := do(h, "GET", "/v1.0/secrets/vault/binary", "dapr-api-token", canary+"-token")
	refused := do(h, "GET", "/v1.0/secrets/vault/db", "dapr-api-token", "wrong-"+canary)
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var metrics strings.Builder
	for _, family := range families {
		metrics.WriteString(family.String())
	}
	for where, text := range map[string]string{
		"log": f.logs.String(), "error": failed.Body.String(), "refusal": refused.Body.String(), "metrics": metrics.String(),
	} {
		if text == "" || strings.Contains(text, canary) {
			t.Errorf("%s: %q", where, text)
		}
	}
	if strings.Contains(metrics.String(), "versioned") {
		t.Error("a secret's name is in a metric")
	}
}

func TestMetrics(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	f := newFixture(t).withStore("vault", m)
	f.options.Token = secret.FromString("t")
	srv := f.run()
	for path, header := range map[string]string{
		"/v1.0/secrets/vault/db": "dapr-api-token: t\r\n", "/v1.0/secrets/vault/none": "dapr-api-token: t\r\n", "/v1.0/secrets/vault/x": "", "/v1.0/healthz": "", "/x": "dapr-api-token: t\r\n",
	} {
		srv.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+header+"\r\n")
	}
	client, _ := srv.client(t)
	_, _ = client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "db"})
	srv.stop() // all are counted
	want := `
# HELP keywell_api_requests_total Requests to the secrets API.
# TYPE keywell_api_requests_total counter
keywell_api_requests_total{operation="get",protocol="grpc",result="unauthenticated"} 1
keywell_api_requests_total{operation="get",protocol="http",result="ok"} 1
keywell_api_requests_total{operation="get",protocol="http",result="secret_not_found"} 1
keywell_api_requests_total{operation="get",protocol="http",result="unauthenticated"} 1
keywell_api_requests_total{operation="health",protocol="http",result="ok"} 1
keywell_api_requests_total{operation="other",protocol="http",result="unmatched"} 1
`
	if err := testutil.GatherAndCompare(f.registry, strings.NewReader(want), "keywell_api_requests_total"); err != nil {
		t.Error(err)
	}
}
