package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

// DefaultName is the driver name that pods refer to, unless Options name another.
const DefaultName = "csi.keywell.dev"

// stopTimeout is how long calls under way may go on once Serve is to end. The kubelet repeats what is cut off.
const stopTimeout = 10 * time.Second

// Volumes are the volumes of this node; *volume.Set is one.
type Volumes interface {
	Publish(ctx context.Context, req volume.Request) error
	Unpublish(ctx context.Context, id, target string) error
	Stats(id, path string) (volume.Stats, error)
}

// Options configure a Server.
type Options struct {
	Name    string // driver name; default DefaultName
	Version string // of the agent; required
	NodeID  string // the node's name in Kubernetes; required
	Volumes Volumes
	// Identify attests on whose behalf a volume is published; see package identity. It is a pure function: it is called
	// for the log too.
	Identify func(volumeContext map[string]string) (scope.Identity, error)
	// Ready tells why volumes can't be served yet, nil if they can. Nil func: always ready.
	Ready      func() error
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Server is the CSI plugin. It is safe for concurrent use.
type Server struct {
	csipb.UnimplementedIdentityServer
	csipb.UnimplementedNodeServer
	opts    Options
	metrics metrics
}

// New returns a Server; Serve makes it reachable.
func New(opts Options) (*Server, error) {
	switch {
	case opts.Version == "":
		return nil, errors.New("csi needs a Version")
	case opts.NodeID == "":
		return nil, errors.New("csi needs a NodeID")
	case opts.Volumes == nil:
		return nil, errors.New("csi needs Volumes")
	case opts.Identify == nil:
		return nil, errors.New("csi needs an Identify func")
	}
	if opts.Name == "" {
		opts.Name = DefaultName
	}
	if opts.Ready == nil {
		opts.Ready = func() error { return nil }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{opts: opts, metrics: newMetrics(opts.Registerer)}, nil
}

// Serve answers calls on l until ctx ends; then it lets calls under way finish for a while and returns nil. It closes l
// last, so that the next agent starts when this one has finished.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	defer l.Close()
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	csipb.RegisterIdentityServer(server, s)
	csipb.RegisterNodeServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l.Listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve CSI calls: %w", err)
	case <-ctx.Done():
	}
	force := time.AfterFunc(stopTimeout, server.Stop)
	defer force.Stop()
	server.GracefulStop()
	<-ended
	return nil
}
