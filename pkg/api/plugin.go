package api

import (
	"context"
	"slices"
	"time"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// pluginSkin serves Dapr's protocol for pluggable secret stores (dapr.proto.components.v1.SecretStore), by which a daprd
// has one of our stores as its own. A component of that daprd is the store of the same name, so that there is nothing to
// remember: a daprd sends the settings of a component once, and would not send them again to an agent that restarted.
type pluginSkin struct {
	componentsv1pb.UnimplementedSecretStoreServer
	*core
	gate  *gate
	ready func() []string
}

// instanceHeader names the component that a call is for.
const instanceHeader = "x-component-instance"

// newPluginServer returns a server of the skin. A daprd finds out by reflection what a socket offers.
func newPluginServer(skin *pluginSkin, maxMessage, readBuffer int) *grpc.Server {
	server := grpc.NewServer(append(serverOptions(maxMessage, readBuffer), grpc.UnaryInterceptor(skin.intercept))...)
	server.RegisterService(pluginServiceDesc(), skin)
	reflection.Register(server)
	return server
}

// pluginServiceDesc is Dapr's service with the methods that answer secrets answering encoded messages: they have the
// same form as those of the secrets API.
func pluginServiceDesc() *grpc.ServiceDesc {
	desc := componentsv1pb.SecretStore_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		switch m.MethodName {
		case "Get":
			desc.Methods[i].Handler = unary(componentsv1pb.SecretStore_Get_FullMethodName, (*pluginSkin).getSecret)
		case "BulkGet":
			desc.Methods[i].Handler = unary(componentsv1pb.SecretStore_BulkGet_FullMethodName, (*pluginSkin).getBulk)
		}
	}
	return &desc
}

// intercept attests the caller, who has nothing to present but the socket, and records the call.
func (p *pluginSkin) intercept(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	begun := time.Now()
	op, name := opOther, ""
	switch r := request.(type) {
	case *componentsv1pb.GetSecretRequest:
		op, name = opGet, r.GetKey()
	case *componentsv1pb.BulkGetSecretRequest:
		op = opBulk
	}
	var e Evidence
	if from, ok := peer.FromContext(ctx); ok {
		e.Peer = from.Addr
	}
	result := resultUnauthenticated
	var answer any
	id, err := p.gate.admit(ctx, e)
	if err != nil {
		err = status.Error(codes.Unauthenticated, "the caller is not known by this socket")
	} else {
		answer, err = handle(context.WithValue(ctx, callerKey{}, id), request)
		result = resultOf(err)
	}
	took := time.Since(begun)
	p.metrics.request("plugin", op, result, took)
	p.logRequest(ctx, "plugin", op, instanceOf(ctx), name, result, took)
	return answer, err
}

// instanceOf returns the name of the component that a call is for.
func instanceOf(ctx context.Context) string {
	if names := metadata.ValueFromIncomingContext(ctx, instanceHeader); len(names) > 0 {
		return names[0]
	}
	return ""
}

// store returns the store that a call is for. The error is a *fault or a status.
func (p *pluginSkin) store(ctx context.Context) (Store, error) {
	name := instanceOf(ctx)
	if name == "" {
		return Store{}, status.Error(codes.InvalidArgument, "no "+instanceHeader+" in the metadata of the call")
	}
	if parts := p.ready(); parts != nil {
		return Store{}, status.Errorf(codes.Unavailable, "the agent is not ready: %v", parts)
	}
	return p.openStore(ctx, p.policy.Policy(), callerOf(ctx), query{store: name})
}

// Init fails unless there is a store with the component's name that the caller may know of.
func (p *pluginSkin) Init(ctx context.Context, _ *componentsv1pb.SecretStoreInitRequest) (*componentsv1pb.SecretStoreInitResponse, error) {
	if _, err := p.store(ctx); err != nil {
		return nil, err
	}
	return &componentsv1pb.SecretStoreInitResponse{}, nil
}

// Features returns the store's capabilities.
func (p *pluginSkin) Features(ctx context.Context, _ *componentsv1pb.FeaturesRequest) (*componentsv1pb.FeaturesResponse, error) {
	store, err := p.store(ctx)
	if err != nil {
		return nil, err
	}
	return &componentsv1pb.FeaturesResponse{Features: store.Capabilities}, nil
}

// Ping says that the agent lives.
func (p *pluginSkin) Ping(context.Context, *componentsv1pb.PingRequest) (*componentsv1pb.PingResponse, error) {
	return &componentsv1pb.PingResponse{}, nil
}

func (p *pluginSkin) getSecret(ctx context.Context, in *componentsv1pb.GetSecretRequest) (encoded, error) {
	answer, err := p.get(ctx, callerOf(ctx), query{store: instanceOf(ctx), name: in.GetKey(), metadata: in.GetMetadata()})
	if err != nil {
		return nil, err
	}
	return protoFormat.secret(answer.fields), nil
}

func (p *pluginSkin) getBulk(ctx context.Context, in *componentsv1pb.BulkGetSecretRequest) (encoded, error) {
	answer, err := p.bulk(ctx, callerOf(ctx), query{store: instanceOf(ctx), metadata: in.GetMetadata()}, protoFormat)
	if err != nil {
		return nil, err
	}
	return answer.body, nil
}

// bySocket returns a gate for callers that have no token, because who they are follows from the socket.
func (g *gate) bySocket() *gate { return &gate{attest: g.attest, logger: g.logger} }
