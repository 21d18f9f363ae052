package api_test

//lint:file-ignore SA1019 clients from before reflection v1 speak v1alpha, so it is served and tested.

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

func TestGRPCGet(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"user": "app", "password": "a<b>\n", "empty": "", "": "no name"})
	m.PutPayload("", "none", providers.Payload{})
	m.Put("large", map[string]string{"large": strings.Repeat("x", 300)})
	m.Put("a/b c+", map[string]string{"k": "v"})
	f := newFixture(t).withStore("vault", m)
	f.with(api.Store{Name: "env", Open: true, MissingIsEmpty: true}, providertest.NewMemory().Provider())
	client, _ := f.run().client(t)
	for _, tc := range []struct {
		store, key string
		want       map[string]string
	}{
		{"vault", "db", map[string]string{"user": "app", "password": "a<b>\n", "empty": "", "": "no name"}},
		{"vault", "none", nil},
		{"vault", "large", map[string]string{"large": strings.Repeat("x", 300)}},
		{"vault", "a/b c+", map[string]string{"k": "v"}},
		{"env", "HOME", map[string]string{"HOME": ""}},
	} {
		var trailer metadata.MD
		got, err := client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: tc.store, Key: tc.key}, grpc.Trailer(&trailer))
		if err != nil {
			t.Errorf("%s: %v", tc.key, err)
			continue
		}
		if diff := cmp.Diff(&runtimev1pb.GetSecretResponse{Data: tc.want}, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.key, diff)
		}
		if tc.store == "vault" && (len(trailer.Get("etag")) != 1 || trailer.Get("keywell-version")[0] != "1") {
			t.Errorf("%s: trailer %v", tc.key, trailer)
		}
	}
}

func TestGRPCFailures(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("hidden", map[string]string{"hidden": "x"})
	m.Put("binary", map[string]string{"b": "\xff"})
	m.FailName("refused", providers.Errorf(providers.Denied, "403"))
	m.FailName("busy", &providers.Error{Kind: providers.Throttled, RetryAfter: 1500 * time.Millisecond, Err: errors.New("slow down")})
	f := newFixture(t).withStore("vault", m)
	f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"hidden"}}}
	f.setPolicy()
	client, _ := f.run().client(t)
	for _, tc := range []struct {
		store, key, message, reason string
		code                        codes.Code
		retry                       time.Duration
	}{
		{store: "vault", key: "nope", code: codes.Internal, reason: "SECRET_NOT_FOUND", message: "failed getting secret with key nope from secret store vault: secret nope not found"},
		{store: "vault", key: "", code: codes.Internal, reason: "SECRET_INVALID", message: "failed getting secret with key  from secret store vault: no secret name"},
		{store: "vault", key: "binary", code: codes.Internal, reason: "SECRET_BINARY", message: "failed getting secret with key binary from secret store vault: " +
			"the value is not UTF-8 text, which is all this API can carry; mount the secret as a volume instead"},
		{store: "vault", key: "refused", code: codes.Internal, reason: "STORE_DENIED", message: "failed getting secret with key refused from secret store vault: 403"},
		{store: "vault", key: "hidden", code: codes.PermissionDenied, reason: "SECRET_DENIED", message: `access denied by policy to get "hidden" from "vault"`},
		{store: "other", key: "x", code: codes.InvalidArgument, reason: "STORE_NOT_FOUND", message: "failed finding secret store with key other"},
		{store: "vault", key: "busy", code: codes.Internal, reason: "STORE_THROTTLED", message: "failed getting secret with key busy from secret store vault: slow down", retry: 1500 * time.Millisecond},
	} {
		t.Run(tc.store+" "+tc.key, func(t *testing.T) {
			_, err := client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: tc.store, Key: tc.key})
			s := status.Convert(err)
			if s.Code() != tc.code || s.Message() != tc.message {
				t.Errorf("got %v %q, want %v %q", s.Code(), s.Message(), tc.code, tc.message)
			}
			subject := map[string]string{"store": tc.store}
			if tc.key != "" && tc.reason != "STORE_NOT_FOUND" {
				subject["secret"] = tc.key
			}
			want := []any{&errdetails.ErrorInfo{Reason: tc.reason, Domain: "keywell.dev", Metadata: subject}}
			if tc.retry > 0 {
				want = append(want, &errdetails.RetryInfo{RetryDelay: durationpb.New(tc.retry)})
			}
			if diff := cmp.Diff(want, s.Details(), protocmp.Transform()); diff != "" {
				t.Errorf("details (-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff([]string{"api checkout vault hidden", "api checkout other x"}, f.audit.denied); diff != "" {
		t.Errorf("audited denials (-want +got):\n%s", diff)
	}
}

func TestGRPCNoStores(t *testing.T) {
	client, _ := newFixture(t).run().client(t)
	_, err := client.GetBulkSecret(t.Context(), &runtimev1pb.GetBulkSecretRequest{StoreName: "vault"})
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "secret store is not configured" {
		t.Errorf("got %v", err)
	}
}

func TestGRPCToken(t *testing.T) {
	f := newFixture(t)
	f.options.Token = secret.FromString("right")
	client, conn := f.run().client(t)
	for _, tc := range []struct {
		name  string
		token []string
		want  string
	}{
		{"missing", nil, "missing api token in request metadata"},
		{"wrong", []string{"dapr-api-token", "wrong"}, "authentication error: api token mismatch"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), tc.token...)
			_, unary := client.GetMetadata(ctx, &runtimev1pb.GetMetadataRequest{})
			unknown := conn.Invoke(ctx, "/some.Service/Method", &emptypb.Empty{}, &emptypb.Empty{})
			for _, err := range []error{unary, unknown} {
				s := status.Convert(err)
				if s.Code() != codes.Unauthenticated || s.Message() != "Unauthorized" {
					t.Errorf("got %v", err)
				}
				want := []any{&errdetails.ErrorInfo{Reason: "Unauthorized", Domain: "dapr.io",
					Metadata: map[string]string{"http.code": "401", "http.error_message": tc.want}}}
				if diff := cmp.Diff(want, s.Details(), protocmp.Transform()); diff != "" {
					t.Errorf("details (-want +got):\n%s", diff)
				}
			}
		})
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-api-token", "right")
	if _, err := client.GetMetadata(ctx, &runtimev1pb.GetMetadataRequest{}); err != nil {
		t.Errorf("right token: %v", err)
	}
}

func TestGRPCMetadata(t *testing.T) {
	f := newFixture(t)
	f.with(api.Store{Name: "vault", Type: "secretstores.hashicorp.vault", Version: "v1", Open: true, Capabilities: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}}, nil)
	f.with(api.Store{Name: "broken", Reason: "line 3: no token"}, nil)
	f.stores.list = append(f.stores.list, api.Store{Key: "invisible", Name: "invisible", Open: true}, api.Store{Key: "invisible too", Name: "invisible too", Reason: "x"})
	client, _ := f.run().client(t)
	for key, value := range map[string]string{"": "ignored", "mine": "1", "daprRuntimeVersion": "forged"} {
		if _, err := client.SetMetadata(t.Context(), &runtimev1pb.SetMetadataRequest{Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.SetMetadata(t.Context(), &runtimev1pb.SetMetadataRequest{Key: "k", Value: strings.Repeat("x", 4096)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("large entry: %v", err)
	}
	got, err := client.GetMetadata(t.Context(), &runtimev1pb.GetMetadataRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtimev1pb.GetMetadataResponse{
		Id:             appID,
		RuntimeVersion: "1.18.1",
		RegisteredComponents: []*runtimev1pb.RegisteredComponents{
			{Name: "vault", Type: "secretstores.hashicorp.vault", Version: "v1", Capabilities: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}},
		},
		ExtendedMetadata: map[string]string{"daprRuntimeVersion": "1.18.1", "keywell.closedStore.broken": "line 3: no token", "mine": "1"},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGRPCOtherMethods(t *testing.T) {
	client, conn := newFixture(t).run().client(t)
	call := func(method string) error { return conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}) }
	_, state := client.GetState(t.Context(), &runtimev1pb.GetStateRequest{})
	_, shutdown := client.Shutdown(t.Context(), &runtimev1pb.ShutdownRequest{})
	const proxying = "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata"
	for _, tc := range []struct {
		name    string
		err     error
		code    codes.Code
		message string
	}{
		{"state", state, codes.Unimplemented, "method GetState not implemented"},
		{"shutdown", shutdown, codes.PermissionDenied, "the agent serves other apps too and is not shut down by its callers"},
		{"unknown service", call("/some.Service/Method"), codes.Unknown, proxying},
		{"health", call("/grpc.health.v1.Health/Check"), codes.Unknown, proxying},
	} {
		if s := status.Convert(tc.err); s.Code() != tc.code || s.Message() != tc.message {
			t.Errorf("%s: %v %q", tc.name, s.Code(), s.Message())
		}
	}
}

func TestReflection(t *testing.T) {
	_, conn := newFixture(t).run().client(t)
	v1, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	symbol := "dapr.proto.runtime.v1.Dapr"
	if err := v1.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}}); err != nil {
		t.Fatal(err)
	}
	if answer, err := v1.Recv(); err != nil || len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("v1: %v, %v", answer, err)
	}
	alpha, err := reflectionv1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := alpha.Send(&reflectionv1alpha.ServerReflectionRequest{MessageRequest: &reflectionv1alpha.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := alpha.Recv()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range answer.GetListServicesResponse().GetService() {
		found = found || s.GetName() == symbol
	}
	if !found {
		t.Errorf("v1alpha lists %v", answer)
	}
}

func TestGRPCLimits(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("big", map[string]string{"big": strings.Repeat("x", 5000)})
	f := newFixture(t).withStore("vault", m)
	f.options.MaxBodyBytes = 4096
	client, _ := f.run().client(t)
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "big"})
			return err
		},
		"bulk": func() error {
			_, err := client.GetBulkSecret(t.Context(), &runtimev1pb.GetBulkSecretRequest{StoreName: "vault"})
			return err
		},
		"request": func() error {
			_, err := client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: strings.Repeat("x", 5000)})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGRPCNoCache(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	client, _ := newFixture(t).withStore("vault", m).run().client(t)
	fresh := metadata.AppendToOutgoingContext(t.Context(), "cache-control", "no-cache")
	for want, ctx := range []context.Context{nil, t.Context(), fresh, t.Context()} {
		if ctx == nil {
			continue
		}
		if _, err := client.GetSecret(ctx, &runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "db"}); err != nil {
			t.Fatal(err)
		}
		if got := m.Fetches("db"); got != min(want, 2) {
			t.Errorf("call %d: %d fetches", want, got)
		}
	}
}

// TestWireForm checks the hand-made wire form of answers against the generated code: what it decodes and encodes again
// in its deterministic order is the same.
func TestWireForm(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("b", map[string]string{"y": "1", "x": strings.Repeat("z", 200)})
	m.Put("a", map[string]string{})
	m.Put("c", map[string]string{"": ""})
	_, conn := newFixture(t).withStore("vault", m).run().client(t)
	for method, messages := range map[string][2]proto.Message{
		"GetSecret":     {&runtimev1pb.GetSecretRequest{StoreName: "vault", Key: "b"}, &runtimev1pb.GetSecretResponse{}},
		"GetBulkSecret": {&runtimev1pb.GetBulkSecretRequest{StoreName: "vault"}, &runtimev1pb.GetBulkSecretResponse{}},
	} {
		var wire rawCodec
		request, err := proto.Marshal(messages[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Invoke(t.Context(), "/dapr.proto.runtime.v1.Dapr/"+method, request, &wire.got, grpc.ForceCodec(&wire)); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(wire.got, messages[1]); err != nil {
			t.Fatal(err)
		}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(messages[1])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, wire.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", method, diff)
		}
	}
}

// rawCodec passes bytes through.
type rawCodec struct{ got []byte }

func (*rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (*rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (*rawCodec) Name() string { return "proto" }
