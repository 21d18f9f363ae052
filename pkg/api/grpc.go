package api

import (
	"context"
	"math"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// grpcSkin translates between gRPC and the core. Methods that it lacks are answered Unimplemented.
type grpcSkin struct {
	runtimev1pb.UnimplementedDaprServer
	*core
	gate *gate
}

// newGRPCServer returns a server of the skin.
func newGRPCServer(skin *grpcSkin, maxMessage, readBuffer int) *grpc.Server {
	server := grpc.NewServer(append(serverOptions(maxMessage, readBuffer),
		grpc.UnaryInterceptor(skin.interceptUnary),
		grpc.StreamInterceptor(skin.interceptStream),
		grpc.UnknownServiceHandler(refuseProxying),
	)...)
	server.RegisterService(serviceDesc(), skin)
	reflection.Register(server)
	return server
}

// serverOptions are daprd's, because clients are configured for them: one that sends keepalive pings every 10 s is cut off
// by a server with grpc-go's defaults.
func serverOptions(maxMessage, readBuffer int) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 3 * time.Minute, Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(uint32(min(readBuffer*1024, math.MaxUint32))),
		grpc.ForceServerCodecV2(newCodec()),
	}
}

// refuseProxying answers calls of services that daprd would pass on to another app.
func refuseProxying(any, grpc.ServerStream) error {
	return status.Error(codes.Unknown, "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata")
}

// callerKey is the key of the caller's scope.Identity in a call's context.
type callerKey struct{}

func callerOf(ctx context.Context) scope.Identity {
	id, _ := ctx.Value(callerKey{}).(scope.Identity)
	return id
}

// interceptUnary lets the caller in and records the call.
func (g *grpcSkin) interceptUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	begun := time.Now()
	op, store, name := subjectOf(request)
	result := resultUnauthenticated
	var answer any
	id, err := g.admit(ctx)
	if err == nil {
		answer, err = handle(context.WithValue(ctx, callerKey{}, id), request)
		result = resultOf(err)
	}
	took := time.Since(begun)
	g.metrics.request("grpc", op, result, took)
	g.logRequest(ctx, "grpc", op, store, name, result, took)
	return answer, err
}

// subjectOf says what a request is about.
func subjectOf(request any) (op operation, store, name string) {
	switch r := request.(type) {
	case *runtimev1pb.GetSecretRequest:
		return opGet, r.GetStoreName(), r.GetKey()
	case *runtimev1pb.GetBulkSecretRequest:
		return opBulk, r.GetStoreName(), ""
	case *runtimev1pb.GetMetadataRequest:
		return opMetadata, "", ""
	case *runtimev1pb.SetMetadataRequest:
		return opSetMetadata, "", ""
	case *runtimev1pb.GetConfigurationRequest:
		return opGetConfiguration, r.GetStoreName(), ""
	case *runtimev1pb.UnsubscribeConfigurationRequest:
		return opUnsubscribe, r.GetStoreName(), ""
	default:
		return opOther, "", ""
	}
}

// interceptStream lets the caller in: to subscriptions, to reflection and to what is refused anyway.
func (g *grpcSkin) interceptStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	id, err := g.admit(stream.Context())
	if err != nil {
		return err
	}
	return handle(server, callerStream{stream, id})
}

// callerStream is the stream of a caller that was let in.
type callerStream struct {
	grpc.ServerStream
	caller scope.Identity
}

// Context returns the stream's context with the caller in it.
func (s callerStream) Context() context.Context {
	return context.WithValue(s.ServerStream.Context(), callerKey{}, s.caller)
}

// admit returns who calls. The error is daprd's status.
func (g *grpcSkin) admit(ctx context.Context) (scope.Identity, error) {
	var e Evidence
	if token := metadata.ValueFromIncomingContext(ctx, tokenHeader); len(token) > 0 {
		e.Token = secret.FromString(token[0])
	}
	if p, ok := peer.FromContext(ctx); ok {
		e.Peer = p.Addr
	}
	id, err := g.gate.admit(ctx, e)
	if err != nil {
		return scope.Identity{}, unauthorized(err)
	}
	return id, nil
}

// unauthorized returns daprd's status for a caller that is not let in.
func unauthorized(err error) error {
	s := status.New(codes.Unauthenticated, "Unauthorized")
	detailed, detailErr := s.WithDetails(&errdetails.ErrorInfo{
		Reason:   "Unauthorized",
		Domain:   "dapr.io",
		Metadata: map[string]string{"http.code": "401", "http.error_message": err.Error()},
	})
	if detailErr != nil {
		return s.Err()
	}
	return detailed.Err()
}

func (g *grpcSkin) getSecret(ctx context.Context, in *runtimev1pb.GetSecretRequest) (encoded, error) {
	q := query{store: in.GetStoreName(), name: in.GetKey(), metadata: in.GetMetadata(), fresh: wantsFresh(ctx)}
	answer, err := g.get(ctx, callerOf(ctx), q)
	if err != nil {
		return nil, err
	}
	setTrailer(ctx, &answer.stamp)
	return protoFormat.secret(answer.fields), nil
}

func (g *grpcSkin) getBulk(ctx context.Context, in *runtimev1pb.GetBulkSecretRequest) (encoded, error) {
	q := query{store: in.GetStoreName(), metadata: in.GetMetadata(), fresh: wantsFresh(ctx)}
	answer, err := g.bulk(ctx, callerOf(ctx), q, protoFormat)
	if err != nil {
		return nil, err
	}
	setTrailer(ctx, &answer.stamp)
	return answer.body, nil
}

// wantsFresh reports whether the call's metadata asks for an answer from the store itself.
func wantsFresh(ctx context.Context) bool {
	return asksFresh(metadata.ValueFromIncomingContext(ctx, "cache-control"))
}

// setTrailer sends the stamp with the end of the answer.
func setTrailer(ctx context.Context, s *stamp) {
	trailer := metadata.MD{}
	s.each(func(name headerName, value string) { trailer[name.grpc] = []string{value} })
	_ = grpc.SetTrailer(ctx, trailer) // fails only outside of a call
}

// GetMetadata describes this agent.
func (g *grpcSkin) GetMetadata(ctx context.Context, _ *runtimev1pb.GetMetadataRequest) (*runtimev1pb.GetMetadataResponse, error) {
	d := g.describe(callerOf(ctx))
	out := &runtimev1pb.GetMetadataResponse{Id: d.ID, RuntimeVersion: d.RuntimeVersion, ExtendedMetadata: d.Extended}
	for _, c := range d.Components {
		out.RegisteredComponents = append(out.RegisteredComponents, &runtimev1pb.RegisteredComponents{
			Name: c.Name, Type: c.Type, Version: c.Version, Capabilities: c.Capabilities,
		})
	}
	return out, nil
}

// SetMetadata adds an entry to the caller's metadata.
func (g *grpcSkin) SetMetadata(ctx context.Context, in *runtimev1pb.SetMetadataRequest) (*emptypb.Empty, error) {
	if err := g.added.set(callerOf(ctx), in.GetKey(), in.GetValue()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Shutdown is refused: a daprd is its app's own, this agent is not.
func (g *grpcSkin) Shutdown(context.Context, *runtimev1pb.ShutdownRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.PermissionDenied, "the agent serves other apps too and is not shut down by its callers")
}
