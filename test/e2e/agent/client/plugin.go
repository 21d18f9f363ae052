package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// plugin is a pluggable secret store, as anybody might write one. Its one secret, db, has as its password what Init
// brought as the property answer, and what the plugin was started with.
type plugin struct {
	componentsv1pb.UnimplementedSecretStoreServer
	answer, started string
}

// servePlugin serves the plugin at a path until ctx ends. A socket that one before has left there is replaced.
func servePlugin(ctx context.Context, path, started string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	componentsv1pb.RegisterSecretStoreServer(server, &plugin{started: started})
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(l)
}

func (p *plugin) Init(_ context.Context, in *componentsv1pb.SecretStoreInitRequest) (*componentsv1pb.SecretStoreInitResponse, error) {
	p.answer = in.GetMetadata().GetProperties()["answer"]
	return &componentsv1pb.SecretStoreInitResponse{}, nil
}

func (p *plugin) Features(context.Context, *componentsv1pb.FeaturesRequest) (*componentsv1pb.FeaturesResponse, error) {
	return &componentsv1pb.FeaturesResponse{Features: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}}, nil
}

func (p *plugin) Get(_ context.Context, in *componentsv1pb.GetSecretRequest) (*componentsv1pb.GetSecretResponse, error) {
	if in.GetKey() != "db" {
		return nil, status.Error(codes.NotFound, "there is none")
	}
	return &componentsv1pb.GetSecretResponse{Data: map[string]string{"password": p.answer + ", " + p.started}}, nil
}
