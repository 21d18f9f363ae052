package localhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/netns"
	"github.com/keywell/keywell/pkg/scope"
)

// The ports, which are those of a Dapr sidecar.
const (
	httpPort = "3500"
	grpcPort = "50001"
)

const (
	openTimeout     = 5 * time.Second // to find a namespace and listen there
	concurrentOpens = 8

	// The waits before a sandbox that failed is tried again; doubled each time.
	firstPause   = time.Second
	longestPause = time.Minute
)

// Runtime is the container runtime; *cri.Runtime is one.
type Runtime interface {
	// Sandboxes returns the sandboxes that are ready.
	Sandboxes() []cri.Sandbox
	// NetworkNamespace returns the path of a sandbox' network namespace. The error may be cri.ErrHostNetwork or cri.ErrGone.
	NetworkNamespace(ctx context.Context, id string) (path string, err error)
}

// Refusal is why a pod that asks for listeners has none.
type Refusal struct {
	Pod     scope.Identity // namespace, name and UID
	Message string         // what is in the way and what to do about it
}

// Options configure a Set. Runtime, Wishes and Serve are required.
type Options struct {
	Runtime Runtime
	// Wishes returns what the pods of this node wish: pod UID → wish. One that is not in it is not known yet.
	Wishes func() map[string]Wish
	// Serve answers API calls on listeners, which it takes over, as calls of the pod id, of which namespace, name and UID
	// are set. What it returns ends that, and closes the listeners and all connections. Serve and Refused are called for
	// several pods at a time.
	Serve      func(id scope.Identity, http, grpc []net.Listener) (stop func())
	Refused    func(Refusal)         // told once per sandbox and reason; must not block; nil: nobody is told
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Set is the listeners of all pods of this node.
type Set struct {
	opts    Options
	metrics metrics
	changed chan struct{} // of size one
	pods    map[string]*pod
}

// pod is a sandbox that is wanted to have listeners. Only reconcile touches it, or the one open that it waits for.
type pod struct {
	wish    Wish
	stop    func() // ends its listeners; nil: it has none
	refused bool   // it is not tried again
	told    bool   // that it can't have them has been said
	pause   time.Duration
	retry   time.Time // when it is tried again, if it has no listeners and is not refused
}

// New returns a Set, which does nothing before Run.
func New(opts Options) (*Set, error) {
	if opts.Runtime == nil || opts.Wishes == nil || opts.Serve == nil {
		return nil, errors.New("listeners in pods need a Runtime, Wishes and Serve")
	}
	if opts.Refused == nil {
		opts.Refused = func(Refusal) {}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Set{opts: opts, metrics: newMetrics(opts.Registerer), changed: make(chan struct{}, 1), pods: map[string]*pod{}}, nil
}

// Nudge says that sandboxes or wishes may have changed. It never blocks.
func (s *Set) Nudge() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run keeps the listeners as they should be until ctx ends; then it returns nil. It is called once. The listeners that
// are open then are left to whom Serve has given them.
func (s *Set) Run(ctx context.Context) error {
	for {
		var due <-chan time.Time
		if retry := s.reconcile(ctx); !retry.IsZero() {
			due = time.After(time.Until(retry))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case <-due:
		}
	}
}

// reconcile closes what should not be and opens what should. It returns when something is to be tried again, or zero.
func (s *Set) reconcile(ctx context.Context) (retry time.Time) {
	sandboxes, wishes := s.opts.Runtime.Sandboxes(), s.opts.Wishes()
	wanted := make(map[string]bool, len(sandboxes))
	for _, sandbox := range sandboxes {
		wanted[sandbox.ID] = wishes[sandbox.PodUID].Wanted
	}
	for id := range s.pods {
		if !wanted[id] {
			s.close(id)
		}
	}
	var opening errgroup.Group
	opening.SetLimit(concurrentOpens)
	for _, sandbox := range sandboxes {
		if !wanted[sandbox.ID] {
			continue
		}
		p := s.pods[sandbox.ID]
		wish := wishes[sandbox.PodUID]
		if p == nil || p.wish.Against != wish.Against || p.refused && p.wish != wish {
			s.close(sandbox.ID)
			p = &pod{pause: firstPause}
			s.pods[sandbox.ID] = p
		}
		p.wish = wish
		if p.stop == nil && !p.refused && !time.Now().Before(p.retry) {
			opening.Go(func() error {
				s.open(ctx, sandbox, p)
				return nil
			})
		}
	}
	_ = opening.Wait() // what failed is tried again
	for _, p := range s.pods {
		if p.stop == nil && !p.refused && (retry.IsZero() || p.retry.Before(retry)) {
			retry = p.retry
		}
	}
	return retry
}

func (s *Set) close(id string) {
	p := s.pods[id]
	if p == nil {
		return
	}
	if p.stop != nil {
		p.stop()
		s.metrics.pods.Dec()
	}
	delete(s.pods, id)
}

// open gives a sandbox its listeners, or notes why it gets none.
func (s *Set) open(ctx context.Context, sandbox cri.Sandbox, p *pod) {
	began := time.Now()
	id := scope.Identity{Namespace: sandbox.Namespace, Pod: sandbox.Pod, PodUID: sandbox.PodUID}
	attrs := []any{slog.String("namespace", id.Namespace), slog.String("pod", id.Pod), slog.String("sandbox", sandbox.ID)}
	http, grpc, err := s.listen(ctx, sandbox.ID, p.wish)
	if err == nil {
		p.stop = s.opts.Serve(id, http, grpc)
		s.metrics.listening(began, sandbox.Since)
		s.opts.Logger.Info("pod has the API on localhost", append(attrs, slog.Duration("duration", time.Since(began)))...)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.metrics.failed(err)
	refusal, final := refusalOf(err)
	switch {
	case final:
		p.refused = true
		s.opts.Logger.Log(ctx, levelOf(p.wish), "pod does not get the API on localhost", append(attrs, slog.String("reason", refusal))...)
	case gone(err) && p.pause == firstPause: // it is most likely about to be no sandbox any more
		refusal = ""
	default:
		s.opts.Logger.Error("pod can't have the API on localhost", append(attrs, slog.Any("err", err), slog.Duration("retry", p.pause))...)
	}
	if p.wish.Asked && refusal != "" && !p.told {
		p.told = true
		s.opts.Refused(Refusal{Pod: id, Message: refusal})
	}
	p.retry, p.pause = time.Now().Add(p.pause), min(2*p.pause, longestPause)
}

// gone tells whether there was nothing to listen in.
func gone(err error) bool { return errors.Is(err, cri.ErrGone) || errors.Is(err, netns.ErrGone) }

// levelOf is how loud a refusal is: it may be nobody's wish.
func levelOf(w Wish) slog.Level {
	if w.Asked {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// againstError is why a pod can't have listeners, as its wish says.
type againstError string

func (e againstError) Error() string { return string(e) }

// listen listens in a sandbox. The addresses of IPv6 are left out where it has none.
func (s *Set) listen(ctx context.Context, id string, wish Wish) (http, grpc []net.Listener, err error) {
	if wish.Against != "" {
		return nil, nil, againstError(wish.Against)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	asked := time.Now()
	path, err := s.opts.Runtime.NetworkNamespace(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	s.metrics.found.Observe(time.Since(asked).Seconds())
	four, err := netns.Listen(ctx, path, "127.0.0.1:"+httpPort, "127.0.0.1:"+grpcPort)
	if err != nil {
		return nil, nil, err
	}
	six, err := netns.Listen(ctx, path, "[::1]:"+httpPort, "[::1]:"+grpcPort)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
		for _, l := range four {
			_ = l.Close() // whoever was that quick tries again
		}
		return nil, nil, err
	}
	http, grpc = four[:1:1], four[1:]
	if len(six) == 2 {
		http, grpc = append(http, six[0]), append(grpc, six[1])
	}
	return http, grpc, nil
}

// refusalOf says what the owner of a pod is told of an error, and whether it is not worth another try.
func refusalOf(err error) (message string, final bool) {
	against, isAgainst := errors.AsType[againstError](err)
	switch {
	case isAgainst:
		return string(against), true
	case errors.Is(err, cri.ErrHostNetwork), errors.Is(err, netns.ErrOwn):
		return "the pod uses hostNetwork, so its localhost is the node's, which is not its own; " +
			"call the API by the socket of a volume with the attribute api: socket", true
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Sprintf("a process of the pod has port %s or %s of localhost, such as a Dapr sidecar; "+
			"let it go and restart the pod, or call the API by the socket of a volume with the attribute api: socket", httpPort, grpcPort), true
	default:
		return "the agent could not listen in the pod's network namespace, and tries again; its log says why", false
	}
}
