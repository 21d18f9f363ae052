package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
)

// The benchmarks compare this server with the least that could give the same answer: a handler of net/http or grpc-go
// that writes the same bytes. Both run over loopback in this process, so that cpu-us/op holds the client as well, which
// is the same on both sides.

// benchmarked returns a fixture with a store of n secrets that are never asked for again, and an audit log, which the
// agent writes in batches.
func benchmarked(b *testing.B, n int) *fixture {
	m := providertest.NewMemory()
	for i := range n {
		name := fmt.Sprintf("secret-%04d", i)
		m.Put(name, map[string]string{name: strings.Repeat("x", 64)})
	}
	f := newFixture(b)
	f.resolver.Close()
	f.resolver = resolve.New(resolve.Options{Audit: slog.New(slog.NewJSONHandler(io.Discard, nil))})
	b.Cleanup(f.resolver.Close)
	f.options.Resolver, f.options.Audit, f.options.Logger = f.resolver, f.resolver, nil
	return f.withStore("vault", m, resolve.Settings{CacheTTL: time.Hour})
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs op and reports its CPU time.
func measure(b *testing.B, op func()) {
	op() // what is made once is made now
	b.ReportAllocs()
	begun := cpu(b)
	for b.Loop() {
		op()
	}
	b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
}

// httpLoop measures GETs of path over one connection, with as little of a client as possible.
func httpLoop(b *testing.B, address, path string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
	reader := bufio.NewReaderSize(conn, 1<<20)
	measure(b, func() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		length := 0
		for {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if digits, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
				length, _ = strconv.Atoi(strings.TrimSpace(digits))
			}
			if len(line) == 2 {
				break
			}
		}
		if n, err := io.CopyN(io.Discard, reader, int64(length)); err != nil || n == 0 {
			b.Fatalf("body of %d bytes: %v", n, err)
		}
	})
}

func BenchmarkHTTP(b *testing.B) {
	for _, bc := range []struct{ name, path string }{
		{"get", "/v1.0/secrets/vault/secret-0000"},
		{"bulk1000", "/v1.0/secrets/vault/bulk"},
	} {
		body := do(api.New(benchmarked(b, 1000).options).Handler(), "GET", bc.path).Body.Bytes()
		b.Run(bc.name+"/bare", func(b *testing.B) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
				_, _ = w.Write(body)
			}))
			defer server.Close()
			httpLoop(b, server.Listener.Addr().String(), bc.path)
		})
		b.Run(bc.name+"/keywell", func(b *testing.B) { httpLoop(b, benchmarked(b, 1000).run().http, bc.path) })
	}
}

// bareDapr answers with prebuilt messages.
type bareDapr struct {
	runtimev1pb.UnimplementedDaprServer
	secret *runtimev1pb.GetSecretResponse
	bulk   *runtimev1pb.GetBulkSecretResponse
}

func (s *bareDapr) GetSecret(context.Context, *runtimev1pb.GetSecretRequest) (*runtimev1pb.GetSecretResponse, error) {
	return s.secret, nil
}

func (s *bareDapr) GetBulkSecret(context.Context, *runtimev1pb.GetBulkSecretRequest) (*runtimev1pb.GetBulkSecretResponse, error) {
	return s.bulk, nil
}

func BenchmarkGRPC(b *testing.B) {
	f := benchmarked(b, 1000)
	keywell, _ := f.run().client(b)
	get := &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "secret-0000"}
	bulk := &runtimev1pb.GetBulkSecretRequest{StoreName: "vault"}
	secret, err := keywell.GetSecret(b.Context(), get)
	if err != nil {
		b.Fatal(err)
	}
	secrets, err := keywell.GetBulkSecret(b.Context(), bulk)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	runtimev1pb.RegisterDaprServer(server, &bareDapr{secret: secret, bulk: secrets})
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	bare, _ := running{grpc: l.Addr().String()}.client(b)

	for _, side := range []struct {
		name   string
		client runtimev1pb.DaprClient
	}{{"bare", bare}, {"keywell", keywell}} {
		b.Run("get/"+side.name, func(b *testing.B) {
			measure(b, func() {
				if _, err := side.client.GetSecret(b.Context(), get); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run("bulk1000/"+side.name, func(b *testing.B) {
			measure(b, func() {
				if _, err := side.client.GetBulkSecret(b.Context(), bulk); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}
