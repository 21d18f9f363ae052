package api

import (
	"context"
	"net"
	"net/http"
)

// Server serves the API. It is safe for concurrent use.
type Server struct{}

// New returns a Server, which listens to nothing before Run.
func New(opts Options) *Server { return &Server{} }

// Handler returns the HTTP skin alone.
func (s *Server) Handler() http.Handler { return nil }

// Run serves the API on all listeners until ctx ends, then gives calls under way 10 seconds to finish and returns nil.
// It closes the listeners. If one of them breaks, Run stops and returns why.
func (s *Server) Run(ctx context.Context, l Listeners) error { <-ctx.Done(); return nil }

// Listeners are the sockets that a Server accepts connections on.
type Listeners struct{ HTTP, GRPC []net.Listener }

// Addresses say where to listen.
type Addresses struct {
	HTTP, GRPC []string // TCP addresses, host:port
	// SocketDir, if set, replaces the TCP addresses by the Unix sockets dapr-<AppID>-http.socket and
	// dapr-<AppID>-grpc.socket in this directory, as Dapr's --unix-domain-socket does.
	SocketDir string
	AppID     string
}

// Listen opens the sockets of a, all or none.
func Listen(ctx context.Context, a Addresses) (Listeners, error) { return Listeners{}, nil }
