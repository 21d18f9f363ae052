package api

import (
	"context"
	"slices"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// encoded is a protobuf message in its wire form.
type encoded []byte

// codec sends encoded messages as they are and leaves all others to the protobuf codec.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

// Marshal returns the wire form of v. The bytes of an encoded message are shared, not copied.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if message, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(message)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// serviceDesc is Dapr's service with the two secrets methods answering encoded messages, which the generated code
// can't.
func serviceDesc() *grpc.ServiceDesc {
	desc := runtimev1pb.Dapr_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		switch m.MethodName {
		case "GetSecret":
			desc.Methods[i].Handler = unary(runtimev1pb.Dapr_GetSecret_FullMethodName, (*grpcSkin).getSecret)
		case "GetBulkSecret":
			desc.Methods[i].Handler = unary(runtimev1pb.Dapr_GetBulkSecret_FullMethodName, (*grpcSkin).getBulk)
		}
	}
	return &desc
}

// unary returns a handler of a method, as the generated code would have it but for the type of the answer.
func unary[Skin, Request any](fullMethod string, call func(Skin, context.Context, *Request) (encoded, error)) grpc.MethodHandler {
	return func(server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		request := new(Request)
		if err := decode(request); err != nil {
			return nil, err
		}
		info := &grpc.UnaryServerInfo{Server: server, FullMethod: fullMethod}
		return intercept(ctx, request, info, func(ctx context.Context, request any) (any, error) {
			return call(server.(Skin), ctx, request.(*Request))
		})
	}
}
