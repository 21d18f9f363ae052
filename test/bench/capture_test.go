package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// captured are the calls of one workload, with the agent's answers in them.
type captured struct {
	answers answers
	calls   map[workload][]call
}

// capture asks the agent for everything once, and compares what it says with what is in the stores.
func capture(ctx context.Context, p *process) (*captured, error) {
	c := &captured{
		answers: answers{HTTP: map[string]httpAnswer{}, GRPC: map[string]grpcAnswer{}},
		calls:   map[workload][]call{},
	}
	if err := c.captureHTTP(ctx, p.http); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return c, c.captureGRPC(ctx, runtimev1pb.NewDaprClient(conn))
}

func (c *captured) captureHTTP(ctx context.Context, address string) error {
	for i := range stores[single] {
		name := secretName(i)
		one := httpGet(single, name)
		if err := c.fetch(ctx, address, &one, map[string]string{name: secretValue(single, name)}); err != nil {
			return err
		}
		c.calls[workload{"HTTP", "GetSecret"}] = append(c.calls[workload{"HTTP", "GetSecret"}], one)
	}
	for store, count := range stores {
		want := map[string]map[string]string{}
		for i := range count {
			want[secretName(i)] = map[string]string{secretName(i): secretValue(store, secretName(i))}
		}
		all := httpBulk(store)
		if err := c.fetch(ctx, address, &all, want); err != nil {
			return err
		}
		c.calls[workload{"HTTP", bulkOf(count)}] = []call{all}
	}
	return nil
}

// fetch makes an HTTP call and keeps its answer, whose body must be want in JSON.
func (c *captured) fetch(ctx context.Context, address string, to *call, want any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+to.path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if to.answer, err = io.ReadAll(resp.Body); err != nil {
		return err
	}
	wanted, err := json.Marshal(want)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(string(wanted)+"\n", string(to.answer)); diff != "" {
		return fmt.Errorf("%s: status %d, wrong answer (-want +got):\n%s", to.path, resp.StatusCode, diff)
	}
	resp.Header.Del("Date") // every server sets its own
	if resp.Header.Get("Age") == "" {
		resp.Header.Set("Age", "1") // it appears after a second, that is, in the measurement
	}
	c.answers.HTTP[to.path] = httpAnswer{Header: resp.Header, Body: to.answer}
	return nil
}

func (c *captured) captureGRPC(ctx context.Context, dapr runtimev1pb.DaprClient) error {
	for i := range stores[single] {
		name := secretName(i)
		var trailer metadata.MD
		resp, err := dapr.GetSecret(ctx, &runtimev1pb.GetSecretRequest{StoreName: single, Key: name}, grpc.Trailer(&trailer))
		if err != nil {
			return err
		}
		want := &runtimev1pb.GetSecretResponse{Data: map[string]string{name: secretValue(single, name)}}
		if !proto.Equal(want, resp) {
			return fmt.Errorf("GetSecret %s: wrong answer", name)
		}
		one := grpcGet(single, name)
		if one.answer, err = proto.Marshal(resp); err != nil {
			return err
		}
		c.answers.GRPC[single+"/"+name] = grpcAnswer{Fields: resp.GetData(), Trailer: aged(trailer)}
		c.calls[workload{"gRPC", "GetSecret"}] = append(c.calls[workload{"gRPC", "GetSecret"}], one)
	}
	for store, count := range stores {
		if err := c.captureBulk(ctx, dapr, store, count); err != nil {
			return err
		}
	}
	return nil
}

func (c *captured) captureBulk(ctx context.Context, dapr runtimev1pb.DaprClient, store string, count int) error {
	var trailer metadata.MD
	resp, err := dapr.GetBulkSecret(ctx, &runtimev1pb.GetBulkSecretRequest{StoreName: store}, grpc.Trailer(&trailer))
	if err != nil {
		return err
	}
	want := &runtimev1pb.GetBulkSecretResponse{Data: map[string]*runtimev1pb.SecretResponse{}}
	for i := range count {
		name := secretName(i)
		want.Data[name] = &runtimev1pb.SecretResponse{Secrets: map[string]string{name: secretValue(store, name)}}
	}
	if !proto.Equal(want, resp) {
		return fmt.Errorf("GetBulkSecret %s: wrong answer", store)
	}
	// The agent sorts the secrets by name, as a deterministic marshal does.
	all := grpcBulk(store)
	if all.answer, err = (proto.MarshalOptions{Deterministic: true}).Marshal(resp); err != nil {
		return err
	}
	c.answers.GRPC[store+"/"] = grpcAnswer{Bulk: all.answer, Trailer: aged(trailer)}
	c.calls[workload{"gRPC", bulkOf(count)}] = []call{all}
	return nil
}

// aged returns a trailer as it will be after a second.
func aged(trailer metadata.MD) metadata.MD {
	trailer = trailer.Copy()
	if len(trailer["age"]) == 0 {
		trailer.Set("age", "1")
	}
	return trailer
}
