package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// Dapr's defaults.
const (
	defaultBodyBytes  = 4 << 20
	defaultReadBuffer = 4 << 10
	headerReadTimeout = 10 * time.Second
	bodyReadTimeout   = 10 * time.Second // not Dapr's, which waits for ever
	gracePeriod       = 10 * time.Second
)

// Server serves the API. It is safe for concurrent use.
type Server struct {
	http       *httpSkin
	grpc       *grpcSkin
	plugin     *pluginSkin
	maxBody    int
	readBuffer int
	logger     *slog.Logger
	stopping   chan struct{} // closed when streams must end
}

// New returns a Server, which listens to nothing before Run.
func New(opts Options) *Server {
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	attest := opts.Attest
	if attest == nil {
		attest = func(context.Context, Evidence) (scope.Identity, error) { return scope.Identity{AppID: opts.AppID}, nil }
	}
	tokens := opts.Tokens
	if tokens == nil {
		tokens = func(scope.Identity) providers.TokenSource { return nil }
	}
	ready := opts.Ready
	if ready == nil {
		ready = func() []string { return nil }
	}
	stopping := make(chan struct{})
	c := &core{
		policy:   opts.Policy,
		resolver: opts.Resolver,
		audit:    opts.Audit,
		stores:   opts.Stores,
		tokens:   tokens,
		watches:  opts.Watches,
		stopping: stopping,
		appID:    opts.AppID,
		version:  opts.Version,
		bulks:    newBulkCache(bulkCacheBytes),
		metrics:  newMetrics(opts.Registerer),
		logger:   logger,
	}
	g := &gate{token: opts.Token, attest: attest, logger: logger}
	maxBody := cmp.Or(opts.MaxBodyBytes, defaultBodyBytes)
	return &Server{
		http:       &httpSkin{core: c, gate: g, health: &health{appID: opts.AppID, ready: ready}, maxBody: maxBody},
		grpc:       &grpcSkin{core: c, gate: g},
		plugin:     &pluginSkin{core: c, gate: g.bySocket(), ready: ready},
		maxBody:    maxBody,
		readBuffer: cmp.Or(opts.ReadBufferBytes, defaultReadBuffer),
		logger:     logger,
		stopping:   stopping,
	}
}

// Handler returns the HTTP skin alone.
func (s *Server) Handler() http.Handler { return s.http }

// Run serves the API on all listeners until ctx ends, then ends streams, gives calls under way 10 seconds to finish and
// returns nil. It closes the listeners. If one of them breaks, Run stops and returns why. It can be called once.
func (s *Server) Run(ctx context.Context, l Listeners) error {
	httpServer := s.newHTTPServer()
	grpcServer := newGRPCServer(s.grpc, s.maxBody, s.readBuffer)
	pluginServer := newPluginServer(s.plugin, s.maxBody, s.readBuffer)
	group, ctx := errgroup.WithContext(ctx)
	for _, listener := range l.HTTP {
		group.Go(func() error {
			if err := httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve HTTP on %s: %w", listener.Addr(), err)
			}
			return nil
		})
	}
	for _, listener := range l.GRPC {
		group.Go(func() error { return serveGRPC(grpcServer, listener) })
	}
	for _, listener := range l.Plugin {
		group.Go(func() error { return serveGRPC(pluginServer, listener) })
	}
	group.Go(func() error {
		<-ctx.Done()
		close(s.stopping)
		stop(context.WithoutCancel(ctx), httpServer, grpcServer, pluginServer)
		return nil
	})
	return group.Wait()
}

func serveGRPC(server *grpc.Server, l net.Listener) error {
	if err := server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}

// newHTTPServer returns a server that speaks HTTP/1.1 and, to clients that know it, HTTP/2 without TLS.
func (s *Server) newHTTPServer() *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.http,
		Protocols:         protocols,
		ReadHeaderTimeout: headerReadTimeout,
		MaxHeaderBytes:    s.readBuffer,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}

// stop ends the servers, in the grace period if their callers allow it.
func stop(ctx context.Context, httpServer *http.Server, grpcServers ...*grpc.Server) {
	ctx, cancel := context.WithTimeout(ctx, gracePeriod)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		if httpServer.Shutdown(ctx) != nil {
			return httpServer.Close()
		}
		return nil
	})
	for _, server := range grpcServers {
		group.Go(func() error {
			kill := context.AfterFunc(ctx, server.Stop)
			server.GracefulStop()
			kill()
			return nil
		})
	}
	_ = group.Wait() // connections that would not close are gone with the process
}
