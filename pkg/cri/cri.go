package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	requestTimeout = 5 * time.Second
	maxAnswer      = 16 << 20 // as the kubelet's: a list of sandboxes with their annotations

	// The waits before the runtime is tried again; doubled each time.
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second

	// settled is when the sandboxes are listed once more after events have begun: a stream does not say when it has.
	settled = time.Second
)

// reconnect is quicker than grpc-go by itself, which would wait for up to two minutes: the socket is on this machine.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, MaxDelay: longestPause / 2},
	MinConnectTimeout: requestTimeout,
}

// Why there are no events. The sandboxes are then listed as often as events are asked for.
var (
	// errNoEvents is for a stream that ends at once. Source: CRI-O, server/container_events.go.
	errNoEvents = errors.New("it has ended the stream of events: CRI-O sends them only with enable_pod_events = true in [crio.runtime]")
	// errOld is for a runtime that does not know the call.
	errOld = errors.New("it is too old to send events: containerd does since 1.7, CRI-O since 1.26 with enable_pod_events = true")
)

// Sandbox is a pod sandbox that is ready: what the pod's containers share, their network namespace above all. A pod has
// another after its sandbox has died.
type Sandbox struct {
	ID                     string
	Namespace, Pod, PodUID string
	// Since is when the runtime announced it. Zero for one that was there when events began.
	Since time.Time
}

// Options configure a Runtime.
type Options struct {
	Socket     string                // absolute path of the runtime's Unix socket
	Changed    func()                // called when the sandboxes have changed; must not block; nil: nobody wants to know
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Runtime is the node's container runtime. It is safe for concurrent use.
type Runtime struct {
	opts      Options
	conn      *grpc.ClientConn
	client    runtimev1.RuntimeServiceClient
	following prometheus.Gauge

	known struct {
		sync.Mutex
		sandboxes map[string]Sandbox // ID → sandbox
		listing   bool
		meanwhile []*runtimev1.ContainerEventResponse // events that came while listing
	}
}

// New returns a Runtime that knows no sandboxes before Run. It does not connect.
func New(opts Options) (*Runtime, error) {
	if !filepath.IsAbs(opts.Socket) {
		return nil, fmt.Errorf("the container runtime's socket %q is not an absolute path", opts.Socket)
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := grpc.NewClient("unix://"+opts.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)), grpc.WithConnectParams(reconnect))
	if err != nil {
		return nil, fmt.Errorf("prepare connection to the container runtime: %w", err)
	}
	r := &Runtime{opts: opts, conn: conn, client: runtimev1.NewRuntimeServiceClient(conn)}
	r.following = promauto.With(opts.Registerer).NewGauge(prometheus.GaugeOpts{
		Name: "keywell_cri_following",
		Help: "1 while the agent follows the container runtime's events, 0 while it can't.",
	})
	r.known.sandboxes = map[string]Sandbox{}
	return r, nil
}

// Run follows the runtime until ctx ends; then it returns nil. What is known stays while the runtime is away.
func (r *Runtime) Run(ctx context.Context) error {
	defer r.conn.Close()
	pause := firstPause
	for {
		followed, err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.following.Set(0)
		level := slog.LevelDebug
		if followed {
			pause = firstPause
		}
		if pause == firstPause { // once each time
			level = slog.LevelWarn
		}
		r.opts.Logger.Log(ctx, level, "container runtime is not followed", "socket", r.opts.Socket, "err", err, "retry", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

// follow takes events until they end, and says why; followed, if they came for long enough to be believed.
func (r *Runtime) follow(ctx context.Context) (followed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()
	stream, err := r.client.GetContainerEvents(ctx, &runtimev1.GetEventsRequest{})
	if err != nil {
		return false, fmt.Errorf("ask for events: %w", err)
	}
	ended := make(chan error, 1)
	receiving.Go(func() { ended <- r.receive(stream) })
	if err := r.list(ctx); err != nil {
		return false, err
	}
	select {
	case err := <-ended:
		return false, err
	case <-time.After(settled):
	}
	r.following.Set(1)
	if err := r.list(ctx); err != nil {
		return true, err
	}
	return true, <-ended
}

// receive takes events, and nothing keeps it from taking the next.
func (r *Runtime) receive(stream grpc.ServerStreamingClient[runtimev1.ContainerEventResponse]) error {
	for {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errNoEvents
		case status.Code(err) == codes.Unimplemented:
			return errOld
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		r.known.Lock()
		if r.known.listing {
			r.known.meanwhile = append(r.known.meanwhile, event)
		}
		changed := r.apply(event)
		r.known.Unlock()
		if changed {
			r.opts.Changed()
		}
	}
}

// apply notes what an event says, and reports whether it was news. The caller holds the lock.
func (r *Runtime) apply(event *runtimev1.ContainerEventResponse) (changed bool) {
	id, sandbox := event.GetContainerId(), event.GetPodSandboxStatus()
	ready := sandbox.GetState() == runtimev1.PodSandboxState_SANDBOX_READY
	switch event.GetContainerEventType() {
	case runtimev1.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimev1.ContainerEventType_CONTAINER_DELETED_EVENT:
		if sandbox == nil || sandbox.GetId() == id { // of the sandbox itself, which has the ID of its first container
			ready = false
		}
	}
	if sandbox != nil {
		id = sandbox.GetId()
	}
	_, known := r.known.sandboxes[id]
	switch {
	case known && !ready:
		delete(r.known.sandboxes, id)
		return true
	case !known && ready:
		s := sandboxOf(id, sandbox.GetMetadata())
		s.Since = time.Unix(0, event.GetCreatedAt())
		r.known.sandboxes[id] = s
		return true
	default:
		return false
	}
}

// list asks for all sandboxes. What events say meanwhile is more recent.
func (r *Runtime) list(ctx context.Context) error {
	r.known.Lock()
	r.known.listing, r.known.meanwhile = true, nil
	r.known.Unlock()

	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ready := &runtimev1.PodSandboxStateValue{State: runtimev1.PodSandboxState_SANDBOX_READY}
	answer, err := r.client.ListPodSandbox(ctx, &runtimev1.ListPodSandboxRequest{Filter: &runtimev1.PodSandboxFilter{State: ready}})

	r.known.Lock()
	r.known.listing = false
	if err != nil {
		r.known.Unlock()
		return fmt.Errorf("list sandboxes: %w", err)
	}
	before := r.known.sandboxes
	r.known.sandboxes = make(map[string]Sandbox, len(answer.GetItems()))
	for _, item := range answer.GetItems() {
		s := sandboxOf(item.GetId(), item.GetMetadata())
		s.Since = before[s.ID].Since
		r.known.sandboxes[s.ID] = s
	}
	for _, event := range r.known.meanwhile {
		r.apply(event)
	}
	r.known.meanwhile = nil
	r.known.Unlock()
	r.opts.Changed()
	return nil
}

func sandboxOf(id string, m *runtimev1.PodSandboxMetadata) Sandbox {
	return Sandbox{ID: id, Namespace: m.GetNamespace(), Pod: m.GetName(), PodUID: m.GetUid()}
}

// Sandboxes returns the sandboxes that are ready, in no order.
func (r *Runtime) Sandboxes() []Sandbox {
	r.known.Lock()
	defer r.known.Unlock()
	all := make([]Sandbox, 0, len(r.known.sandboxes))
	for _, s := range r.known.sandboxes {
		all = append(all, s)
	}
	return all
}
