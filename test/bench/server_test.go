package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/internal/agenttest"
)

// The floor of the API is a server that knows nothing but the answers: this test binary, run again. It has the agent's
// transport settings and sends the agent's own answers, byte for byte, headers and trailers included.

// The environment of the floor server: the file of answers, and the addresses of HTTP, gRPC and metrics.
const (
	floorVariable   = "KEYWELL_BENCH_FLOOR"
	addressVariable = "KEYWELL_BENCH_ADDRESSES"
)

// answers are what a floor server says.
type answers struct {
	HTTP map[string]httpAnswer // path →
	GRPC map[string]grpcAnswer // store/secret, or store/ for all →
}

type httpAnswer struct {
	Header http.Header
	Body   []byte
}

type grpcAnswer struct {
	Fields  map[string]string // of one secret
	Bulk    []byte            // a marshalled GetBulkSecretResponse
	Trailer metadata.MD
}

// startFloor runs a floor server until the test ends.
func startFloor(t *testing.T, a *answers) *process {
	t.Helper()
	p := &process{dir: t.TempDir(), http: agenttest.FreeAddress(t), grpc: agenttest.FreeAddress(t), metrics: agenttest.FreeAddress(t)}
	content, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(p.dir, "answers.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	addresses, err := json.Marshal([]string{p.http, p.grpc, p.metrics})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{floorVariable + "=" + file, addressVariable + "=" + string(addresses)}
	p.run(t, cmd)
	return p
}

// serveFloor is the floor server's main.
func serveFloor(file string) error {
	var a answers
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &a); err != nil {
		return err
	}
	var addresses []string
	if err := json.Unmarshal([]byte(os.Getenv(addressVariable)), &addresses); err != nil {
		return err
	}
	if len(addresses) != 3 {
		return fmt.Errorf("%d addresses instead of 3", len(addresses))
	}
	var listeners [3]net.Listener
	for i, address := range addresses {
		if listeners[i], err = net.Listen("tcp", address); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	http1, grpc2, measures := bareHTTP(a.HTTP), bareGRPC(a.GRPC), &http.Server{Handler: promhttp.Handler()}
	var group errgroup.Group
	group.Go(func() error { return ignoreClosed(http1.Serve(listeners[0])) })
	group.Go(func() error { return grpc2.Serve(listeners[1]) })
	group.Go(func() error { return ignoreClosed(measures.Serve(listeners[2])) })
	<-ctx.Done()
	grpc2.Stop()
	_, _ = http1.Close(), measures.Close()
	return group.Wait()
}

func ignoreClosed(err error) error {
	if err == http.ErrServerClosed {
		return nil
	}
	return err
}

// bareHTTP returns a server of prebuilt answers.
func bareHTTP(answers map[string]httpAnswer) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a, ok := answers[r.URL.Path]
			if !ok {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			header := w.Header()
			for name, value := range a.Header {
				header[name] = value
			}
			_, _ = w.Write(a.Body)
		}),
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    4 << 10,
	}
}

// bareGRPC returns a server that makes a message of the generated type for each secret, and has prebuilt answers for
// all secrets of a store.
func bareGRPC(answers map[string]grpcAnswer) *grpc.Server {
	server := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 3 * time.Minute, Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.MaxRecvMsgSize(4<<20),
		grpc.MaxSendMsgSize(4<<20),
		grpc.MaxHeaderListSize(4<<20),
		grpc.ForceServerCodecV2(passThrough{encoding.GetCodecV2(protocodec.Name)}),
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: runtimev1pb.Dapr_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "GetSecret", Handler: bareCall(func(r *runtimev1pb.GetSecretRequest) (grpcAnswer, any) {
				a := answers[r.GetStoreName()+"/"+r.GetKey()]
				data := make(map[string]string, len(a.Fields))
				for name, value := range a.Fields {
					data[name] = value
				}
				return a, &runtimev1pb.GetSecretResponse{Data: data}
			})},
			{MethodName: "GetBulkSecret", Handler: bareCall(func(r *runtimev1pb.GetBulkSecretRequest) (grpcAnswer, any) {
				a := answers[r.GetStoreName()+"/"]
				return a, rawMessage(a.Bulk)
			})},
		},
	}, nil)
	return server
}

// bareCall returns the handler of a method.
func bareCall[Request any](answer func(*Request) (grpcAnswer, any)) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		request := new(Request)
		if err := decode(request); err != nil {
			return nil, err
		}
		a, message := answer(request)
		if a.Trailer == nil {
			return nil, status.Error(codes.NotFound, "no such answer")
		}
		_ = grpc.SetTrailer(ctx, a.Trailer)
		return message, nil
	}
}

// rawMessage is a message in its wire form.
type rawMessage []byte

// passThrough is a codec that carries raw messages as they are.
type passThrough struct{ encoding.CodecV2 }

func (c passThrough) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(rawMessage); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal copies a message for *rawMessage.
func (c passThrough) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*rawMessage); ok {
		*raw = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
