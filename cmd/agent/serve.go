package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveMetrics serves /metrics until ctx ends, if it has an address.
func (a *agent) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	return a.serve(ctx, "metrics", a.flags.metrics, mux)
}

// serveHealth serves /healthz and /readyz until ctx ends, if it has an address.
func (a *agent) serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	return a.serve(ctx, "health", a.flags.health, mux)
}

// healthz says that the agent lives, which is that it answers on the socket that the kubelet calls.
func (a *agent) healthz(w http.ResponseWriter, r *http.Request) {
	if a.volumes == nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	err := withSocket(a.flags.csiSocket, func(conn csiConn) error {
		_, err := csipb.NewIdentityClient(conn).Probe(ctx, &csipb.ProbeRequest{})
		return err
	})
	if err != nil {
		http.Error(w, "the CSI socket does not answer", http.StatusServiceUnavailable)
	}
}

// readyz says whether the agent can serve pods, and what it waits for.
func (a *agent) readyz(w http.ResponseWriter, _ *http.Request) {
	if parts := a.notReady(); parts != nil {
		http.Error(w, "waiting for "+strings.Join(parts, ", "), http.StatusServiceUnavailable)
	}
}

// serve answers HTTP requests until ctx ends. Without an address it does nothing.
func (a *agent) serve(ctx context.Context, what, address string, handler http.Handler) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", what, err)
	}
	a.log.Info("serving "+what, "address", l.Addr().String())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", what, err)
	}
	return nil
}
