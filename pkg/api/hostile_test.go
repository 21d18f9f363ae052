package api_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
)

// TestSlowBody is a caller that announces a body and does not send it: it must not keep the server waiting. What holds
// for one request must not cut off the next one on the connection.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		listener := newPipes()
		stopped := make(chan error)
		go func() {
			stopped <- api.New(newFixture(t).options).Run(ctx, api.Listeners{HTTP: []net.Listener{listener}})
		}()
		conn := listener.dial()
		answers := bufio.NewReader(conn)
		put := func(body string) (status int, text string) {
			t.Helper()
			if _, err := io.WriteString(conn, "PUT /v1.0/metadata/k HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"+body); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(b)
		}
		for range 2 {
			if code, text := put("body"); code != http.StatusNoContent {
				t.Errorf("whole body: status %d: %s", code, text)
			}
			time.Sleep(time.Minute) // of the bubble
		}
		begun := time.Now()
		if code, text := put("bod"); code != http.StatusBadRequest || !strings.Contains(text, "ERR_BODY_READ") {
			t.Errorf("half a body: status %d: %s", code, text)
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("half a body took %v", took)
		}
		_ = conn.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestSlowCallAfterBody is a call with a body that takes longer than a body may.
func TestSlowCallAfterBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := providertest.NewMemory()
		m.Put("db", map[string]string{"db": "x"})
		release := m.Hang()
		f := newFixture(t).withStore("vault", m, resolve.Settings{RequestTimeout: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		listener := newPipes()
		stopped := make(chan error)
		go func() { stopped <- api.New(f.options).Run(ctx, api.Listeners{HTTP: []net.Listener{listener}}) }()
		conn := listener.dial()
		if _, err := io.WriteString(conn, "GET /v1.0/secrets/vault/db HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(30*time.Second, release) // of the bubble
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		}
		_ = conn.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		f.resolver.Close()
	})
}

// TestLargeQuery sends names that no store has: they must not end up in caches, texts and records.
func TestLargeQuery(t *testing.T) {
	m := providertest.NewMemory()
	f := newFixture(t).withStore("vault", m)
	client, _ := f.run().client(t)
	large := strings.Repeat("x", 17<<10)
	for name, in := range map[string]*runtimev1pb.GetSecretRequest{
		"key":      {StoreName: "vault", Key: large},
		"store":    {StoreName: large, Key: "x"},
		"metadata": {StoreName: "vault", Key: "x", Metadata: map[string]string{"version_id": large}},
	} {
		_, err := client.GetSecret(t.Context(), in)
		if s := status.Convert(err); s.Code() != codes.InvalidArgument || s.Message() != "store, key and metadata are longer than 16384 bytes" {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	_, err := client.GetBulkSecret(t.Context(), &runtimev1pb.GetBulkSecretRequest{StoreName: "vault", Metadata: map[string]string{large: ""}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("bulk: %.200v", err)
	}
	if len(f.audit.denied) > 0 || len(m.Queries()) > 0 {
		t.Errorf("%d records, %d store calls", len(f.audit.denied), len(m.Queries()))
	}
	if _, err := client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: large[:16<<10-5]}); status.Code(err) != codes.Internal {
		t.Errorf("at the limit: %.200v", err)
	}
}

// TestMetadataIsText adds bytes over HTTP that gRPC can't answer with.
func TestMetadataIsText(t *testing.T) {
	f := newFixture(t).with(api.Store{Name: "closed", Reason: "path \xff"}, nil)
	srv := f.run()
	if got := srv.raw(t, "PUT /v1.0/metadata/k%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nv\xff"); !strings.HasPrefix(got, "HTTP/1.1 204") {
		t.Errorf("set: %s", got)
	}
	client, _ := srv.client(t)
	got, err := client.GetMetadata(t.Context(), &runtimev1pb.GetMetadataRequest{})
	if err != nil || got.GetExtendedMetadata()["k\ufffd"] != "v\ufffd" || got.GetExtendedMetadata()["keywell.closedStore.closed"] != "path \ufffd" {
		t.Errorf("metadata %v, %v", got, err)
	}
}

// TestCallerGivesUp checks that a caller without patience does not make the store look bad.
func TestCallerGivesUp(t *testing.T) {
	m := providertest.NewMemory()
	defer m.Hang()()
	f := newFixture(t).withStore("vault", m)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	api.New(f.options).Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/v1.0/secrets/vault/x", nil))
	want := "# HELP keywell_api_requests_total Requests to the secrets API.\n# TYPE keywell_api_requests_total counter\n" +
		`keywell_api_requests_total{operation="get",protocol="http",result="cancelled"} 1` + "\n"
	if err := testutil.GatherAndCompare(f.registry, strings.NewReader(want), "keywell_api_requests_total"); err != nil {
		t.Error(err)
	}
}
