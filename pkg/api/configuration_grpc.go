package api

import (
	"context"
	"crypto/rand"
	"time"

	commonv1pb "github.com/dapr/dapr/pkg/proto/common/v1"
	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"

	"github.com/keywell/keywell/pkg/watch"
)

// maxItemsBytes is how much one message with updates may hold before the rest goes into another.
const maxItemsBytes = 1 << 20

// itemStream is a subscription's stream, of either version of the call.
type itemStream interface {
	Context() context.Context
	Send(message *runtimev1pb.SubscribeConfigurationResponse) error
}

var _ runtimev1pb.DaprServer = (*grpcSkin)(nil) // or else a call with another signature would be found at run time

// GetConfiguration returns secrets as configuration items.
func (g *grpcSkin) GetConfiguration(ctx context.Context, in *runtimev1pb.GetConfigurationRequest) (*runtimev1pb.GetConfigurationResponse, error) {
	s, err := newSelection(query{store: in.GetStoreName(), metadata: in.GetMetadata(), fresh: wantsFresh(ctx)}, in.GetKeys())
	if err != nil {
		return nil, err
	}
	items, _, err := g.configuration(ctx, callerOf(ctx), s)
	if err != nil {
		return nil, configurationFault(err, configurationGet, s)
	}
	out := &runtimev1pb.GetConfigurationResponse{Items: make(map[string]*commonv1pb.ConfigurationItem, len(items))}
	for name, it := range items {
		out.Items[name] = it.proto()
	}
	return out, nil
}

// GetConfigurationAlpha1 is GetConfiguration.
func (g *grpcSkin) GetConfigurationAlpha1(ctx context.Context, in *runtimev1pb.GetConfigurationRequest) (*runtimev1pb.GetConfigurationResponse, error) {
	return g.GetConfiguration(ctx, in)
}

func (it *item) proto() *commonv1pb.ConfigurationItem {
	return &commonv1pb.ConfigurationItem{Value: it.Value, Version: it.Version, Metadata: it.Metadata}
}

// SubscribeConfiguration sends the subscription's id, as Dapr does, and then what changes.
func (g *grpcSkin) SubscribeConfiguration(in *runtimev1pb.SubscribeConfigurationRequest, stream runtimev1pb.Dapr_SubscribeConfigurationServer) error {
	begun := time.Now()
	ctx := stream.Context()
	err := g.streamItems(ctx, in, stream)
	g.metrics.request("grpc", opSubscribe, resultOf(err), 0)
	g.logRequest(ctx, "grpc", opSubscribe, in.GetStoreName(), "", resultOf(err), time.Since(begun))
	return err
}

// SubscribeConfigurationAlpha1 is SubscribeConfiguration.
func (g *grpcSkin) SubscribeConfigurationAlpha1(in *runtimev1pb.SubscribeConfigurationRequest, stream runtimev1pb.Dapr_SubscribeConfigurationAlpha1Server) error {
	return g.SubscribeConfiguration(in, stream)
}

func (g *grpcSkin) streamItems(ctx context.Context, in *runtimev1pb.SubscribeConfigurationRequest, stream itemStream) error {
	id := callerOf(ctx)
	s, err := newSelection(query{store: in.GetStoreName(), metadata: in.GetMetadata()}, in.GetKeys())
	if err != nil {
		return err
	}
	ch, err := g.subscribeItems(ctx, id, s)
	if err != nil {
		return configurationFault(err, configurationWatch, s)
	}
	defer ch.Close()
	key := streamKey{id, rand.Text()}
	ctx, forget := g.streams.open(ctx, key)
	defer forget()
	if err := stream.Send(&runtimev1pb.SubscribeConfigurationResponse{Id: key.id}); err != nil {
		return err
	}
	err = g.follow(ctx, ch.Subscription, follower{
		id: id, readmit: g.admit,
		tell: func(updates []watch.Update) error {
			return sendItems(stream, key.id, g.items(ctx, ch, updates))
		},
	})
	if ctx.Err() != nil { // the caller went away, or asked for the end
		return nil
	}
	return configurationFault(err, configurationWatch, s)
}

// sendItems sends items, in more than one message if they are large.
func sendItems(stream itemStream, id string, items map[string]item) error {
	out := &runtimev1pb.SubscribeConfigurationResponse{Id: id, Items: map[string]*commonv1pb.ConfigurationItem{}}
	size := 0
	for name, it := range items {
		if size += len(name) + len(it.Value); size > maxItemsBytes && len(out.GetItems()) > 0 {
			if err := stream.Send(out); err != nil {
				return err
			}
			out = &runtimev1pb.SubscribeConfigurationResponse{Id: id, Items: map[string]*commonv1pb.ConfigurationItem{}}
			size = len(name) + len(it.Value)
		}
		out.Items[name] = it.proto()
	}
	if len(out.GetItems()) == 0 {
		return nil
	}
	return stream.Send(out)
}

// UnsubscribeConfiguration ends the stream of a subscription of the caller.
func (g *grpcSkin) UnsubscribeConfiguration(ctx context.Context, in *runtimev1pb.UnsubscribeConfigurationRequest) (*runtimev1pb.UnsubscribeConfigurationResponse, error) {
	failure := g.unsubscribe(callerOf(ctx), in.GetId())
	return &runtimev1pb.UnsubscribeConfigurationResponse{Ok: failure == "", Message: failure}, nil
}

// UnsubscribeConfigurationAlpha1 is UnsubscribeConfiguration.
func (g *grpcSkin) UnsubscribeConfigurationAlpha1(ctx context.Context, in *runtimev1pb.UnsubscribeConfigurationRequest) (*runtimev1pb.UnsubscribeConfigurationResponse, error) {
	return g.UnsubscribeConfiguration(ctx, in)
}
