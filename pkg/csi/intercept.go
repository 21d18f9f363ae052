package csi

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"runtime/debug"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// intercept runs one call: it catches a panic, turns the error into a status, counts and logs.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := catch(ctx, req, handler)
	answer := err
	if err != nil {
		answer = toStatus(err)
	}
	call := finished{
		method:   path.Base(info.FullMethod),
		code:     status.Code(answer),
		duration: time.Since(start),
		err:      err,
	}
	s.metrics.observe(call)
	s.log(ctx, req, call)
	return resp, answer
}

// finished is a call that has been answered.
type finished struct {
	method   string
	code     codes.Code
	duration time.Duration
	err      error // before it became a status
}

// catch calls handler and returns a panic as an error.
func catch(ctx context.Context, req any, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case runtime.Error:
			err = &panicked{what: v.Error(), stack: debug.Stack()}
		default:
			// What was thrown may hold anything, so that only its type is told.
			err = &panicked{what: fmt.Sprintf("%T", v), stack: debug.Stack()}
		}
	}()
	return handler(ctx, req)
}

// log writes the one line about a call. Calls that succeed are for debugging: package volume tells when a volume comes
// and goes, and the kubelet repeats the rest every minute.
func (s *Server) log(ctx context.Context, req any, call finished) {
	level := slog.LevelDebug
	if call.err != nil && concernsPod(req) {
		level = slog.LevelError
	}
	if !s.opts.Logger.Enabled(ctx, level) {
		return
	}
	attrs := append(s.describe(req),
		slog.String("method", call.method), slog.String("code", call.code.String()), slog.Duration("duration", call.duration))
	if call.err != nil {
		attrs = append(attrs, slog.Any("err", call.err))
	}
	if caught, ok := call.err.(*panicked); ok {
		attrs = append(attrs, slog.String("stack", string(caught.stack)))
	}
	s.opts.Logger.LogAttrs(ctx, level, "csi call", attrs...)
}

// concernsPod tells whether a pod notices that the call failed.
func concernsPod(req any) bool {
	switch req.(type) {
	case *csipb.NodePublishVolumeRequest, *csipb.NodeUnpublishVolumeRequest:
		return true
	}
	return false
}

// describe returns all that is ever logged of a request: never its secrets, and of its volume context the identity only.
func (s *Server) describe(req any) []slog.Attr {
	var attrs []slog.Attr
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		attrs = append(attrs, slog.String("volume_id", r.GetVolumeId()))
	}
	if r, ok := req.(interface{ GetTargetPath() string }); ok {
		attrs = append(attrs, slog.String("target_path", r.GetTargetPath()))
	}
	if r, ok := req.(*csipb.NodePublishVolumeRequest); ok {
		if id, err := s.opts.Identify(r.GetVolumeContext()); err == nil {
			attrs = append(attrs,
				slog.String("namespace", id.Namespace), slog.String("pod", id.Pod), slog.String("service_account", id.ServiceAccount))
		}
	}
	return attrs
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) metrics {
	factory := promauto.With(r)
	return metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_csi_requests_total",
			Help: "CSI calls answered, by method and gRPC code.",
		}, []string{"method", "code"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keywell_csi_request_seconds",
			Help:    "Time to answer a CSI call, by method.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 11), // 0.1 ms … 105 s
		}, []string{"method"}),
	}
}

func (m metrics) observe(call finished) {
	m.requests.WithLabelValues(call.method, call.code.String()).Inc()
	m.seconds.WithLabelValues(call.method).Observe(call.duration.Seconds())
}
