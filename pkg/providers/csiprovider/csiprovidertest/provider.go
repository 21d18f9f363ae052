// Package csiprovidertest is a provider of the Secrets Store CSI driver, for tests: it speaks the protocol on a real socket,
// and refuses a request that that driver would not make.
package csiprovidertest

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers/csiprovider/v1alpha1"
)

// Answer returns the response to a request, by its attributes.
type Answer func(ctx context.Context, attributes map[string]string) (*v1alpha1.MountResponse, error)

// Provider is a provider on a socket. It is safe for concurrent use.
type Provider struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	server *grpc.Server
	served chan error

	mu    sync.Mutex
	next  Answer
	asked []map[string]string
}

// Serve serves at a path until Stop.
func Serve(path string, answer Answer) (*Provider, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	p := &Provider{server: grpc.NewServer(), served: make(chan error, 1), next: answer}
	v1alpha1.RegisterCSIDriverProviderServer(p.server, p)
	go func() { p.served <- p.server.Serve(l) }()
	return p, nil
}

// Stop ends calls that are under way, and removes the socket.
func (p *Provider) Stop() error {
	p.server.Stop()
	return <-p.served
}

// Answer makes answer what is answered from now on.
func (p *Provider) Answer(answer Answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = answer
}

// Asked returns the attributes of all requests so far.
func (p *Provider) Asked() []map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// Mount checks the request, and answers it.
func (p *Provider) Mount(ctx context.Context, in *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	var attributes, secrets map[string]string
	var permission int32
	switch {
	case json.Unmarshal([]byte(in.GetAttributes()), &attributes) != nil:
		return nil, status.Error(codes.InvalidArgument, "attributes are no JSON object of texts")
	case json.Unmarshal([]byte(in.GetSecrets()), &secrets) != nil:
		return nil, status.Error(codes.InvalidArgument, "secrets are no JSON object of texts")
	case json.Unmarshal([]byte(in.GetPermission()), &permission) != nil || permission < 0 || permission > 0o777:
		return nil, status.Error(codes.InvalidArgument, "permission is no file mode")
	case !filepath.IsAbs(in.GetTargetPath()):
		return nil, status.Error(codes.InvalidArgument, "target path is not absolute")
	}
	p.mu.Lock()
	p.asked = append(p.asked, attributes)
	next := p.next
	p.mu.Unlock()
	return next(ctx, attributes)
}

// Files returns a response with these files, by their paths, of one object.
func Files(version string, files map[string]string) *v1alpha1.MountResponse {
	out := &v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "object", Version: version}}}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		out.Files = append(out.Files, &v1alpha1.File{Path: path, Mode: 0o644, Contents: []byte(files[path])})
	}
	return out
}
