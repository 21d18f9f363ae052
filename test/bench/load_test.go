package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"
)

// connections is how many connections a load uses, each with one request under way.
const connections = 8

// call is one request and the answer that it must get.
type call struct {
	path   string // HTTP path, or gRPC method
	body   []byte // gRPC request, marshalled
	answer []byte // the answer's body, or the marshalled message
}

// client makes calls over one connection.
type client interface {
	do(ctx context.Context, c *call) error
	io.Closer
}

// load makes n calls, taking turns through calls, over all clients at once.
func load(ctx context.Context, clients []client, calls []call, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, c := range clients {
		group.Go(func() error {
			for k := i; k < n; k += len(clients) {
				if err := c.do(ctx, &calls[k%len(calls)]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// httpClient speaks HTTP/1.1 over one kept connection.
type httpClient struct {
	net.Conn
	answers *bufio.Reader
	body    []byte
}

func newHTTPClient(address string) (client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &httpClient{Conn: conn, answers: bufio.NewReader(conn)}, nil
}

func (c *httpClient) do(_ context.Context, want *call) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", want.path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(want.answer)) {
		return fmt.Errorf("%s: status %d with %d bytes, want 200 with %d", want.path, resp.StatusCode, resp.ContentLength, len(want.answer))
	}
	c.body = append(c.body[:0], make([]byte, len(want.answer))...)
	if _, err := io.ReadFull(resp.Body, c.body); err != nil {
		return err
	}
	if !bytes.Equal(c.body, want.answer) {
		return fmt.Errorf("%s: wrong answer", want.path)
	}
	return nil
}

// grpcClient sends and receives messages in their wire form, so that little of this process's time goes into them.
type grpcClient struct{ *grpc.ClientConn }

func newGRPCClient(address string) (client, error) {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(passThrough{encoding.GetCodecV2(protocodec.Name)})))
	if err != nil {
		return nil, err
	}
	return &grpcClient{conn}, nil
}

func (c *grpcClient) do(ctx context.Context, want *call) error {
	var answer rawMessage
	if err := c.Invoke(ctx, want.path, rawMessage(want.body), &answer); err != nil {
		return err
	}
	if !bytes.Equal(answer, want.answer) {
		return fmt.Errorf("%s: wrong answer", want.path)
	}
	return nil
}

// The calls for one secret, and for all secrets of a store.

func httpGet(store, name string) call { return call{path: "/v1.0/secrets/" + store + "/" + name} }

func httpBulk(store string) call { return httpGet(store, "bulk") }

func grpcGet(store, name string) call {
	return grpcCall(runtimev1pb.Dapr_GetSecret_FullMethodName, &runtimev1pb.GetSecretRequest{StoreName: store, Key: name})
}

func grpcBulk(store string) call {
	return grpcCall(runtimev1pb.Dapr_GetBulkSecret_FullMethodName, &runtimev1pb.GetBulkSecretRequest{StoreName: store})
}

func grpcCall(method string, request proto.Message) call {
	body, err := proto.Marshal(request)
	if err != nil {
		panic(err) // strings that are text always have a wire form
	}
	return call{path: method, body: body}
}
