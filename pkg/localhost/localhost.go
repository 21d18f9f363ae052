package localhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	// are set. What it returns ends that, and closes the listeners and all connections. It is called for several pods at
	// a time.
	Serve      func(id scope.Identity, http, grpc []net.Listener) (stop func())
	Refused    func(Refusal)         // told once per sandbox and reason; must not block; nil: nobody is told
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Set is the listeners of all pods of this node.
type Set struct {
	opts     Options
	metrics  metrics
	changed  chan struct{} // of size one
	slots    chan struct{} // one for each attempt that is under way
	attempts chan attempt  // that have ended

	pods map[string]*pod // sandbox ID → pod; only Run touches it, and the pods
}

// pod is a sandbox that is wanted to have listeners.
type pod struct {
	sandbox cri.Sandbox
	wish    Wish
	giveUp  context.CancelFunc // ends the attempt that is under way; nil: none is
	dropped bool               // what the attempt leads to is not wanted any more
	stop    func()             // ends its listeners; nil: it has none
	refused bool               // it is not tried again
	told    bool               // that it can't have them has been said
	pause   time.Duration
	retry   time.Time // when it is tried again, if it has no listeners and is not refused
}

// idle tells whether another attempt is to be made, if it is time.
func (p *pod) idle() bool { return p.giveUp == nil && p.stop == nil && !p.refused }

// attempt is how an attempt to give a pod its listeners has ended: with stop, which ends them, or with an error.
type attempt struct {
	pod  *pod
	stop func()
	err  error
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
	return &Set{
		opts: opts, metrics: newMetrics(opts.Registerer), changed: make(chan struct{}, 1),
		slots: make(chan struct{}, concurrentOpens), attempts: make(chan attempt), pods: map[string]*pod{},
	}, nil
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
	var opening sync.WaitGroup
	defer opening.Wait()
	for {
		var due <-chan time.Time
		if retry := s.reconcile(ctx, &opening); !retry.IsZero() {
			due = time.After(time.Until(retry))
		}
		select {
		case <-ctx.Done():
			return nil
		case a := <-s.attempts:
			s.note(ctx, a)
		case <-s.changed:
		case <-due:
		}
	}
}

// reconcile closes what should not be and begins to open what should. It returns when something is to be tried again, or
// zero.
func (s *Set) reconcile(ctx context.Context, opening *sync.WaitGroup) (retry time.Time) {
	sandboxes, wishes := s.opts.Runtime.Sandboxes(), s.opts.Wishes()
	wanted := make(map[string]bool, len(sandboxes))
	for _, sandbox := range sandboxes {
		wish := wishes[sandbox.PodUID]
		wanted[sandbox.ID] = wish.Wanted
		p := s.pods[sandbox.ID]
		if p != nil && (p.wish.Against != wish.Against || p.refused && p.wish != wish) {
			s.close(p)
			p = s.pods[sandbox.ID]
		}
		if p == nil && wish.Wanted {
			p = &pod{sandbox: sandbox, pause: firstPause}
			s.pods[sandbox.ID] = p
		}
		if p != nil {
			p.wish = wish
		}
	}
	for id, p := range s.pods {
		switch {
		case !wanted[id]:
			s.close(p)
		case !p.idle():
		case !time.Now().Before(p.retry):
			opening.Go(s.opener(ctx, p))
		case retry.IsZero() || p.retry.Before(retry):
			retry = p.retry
		}
	}
	return retry
}

// close ends a pod's listeners and forgets it. One that is about to get them is kept until it has: another attempt at the
// same sandbox would find the ports taken.
func (s *Set) close(p *pod) {
	if p.giveUp != nil {
		p.dropped = true
		p.giveUp()
		return
	}
	if p.stop != nil {
		p.stop()
		s.metrics.pods.Dec()
	}
	delete(s.pods, p.sandbox.ID)
}

// opener returns what makes an attempt to give a pod its listeners. Meanwhile the pod is not touched.
func (s *Set) opener(ctx context.Context, p *pod) func() {
	attempting, giveUp := context.WithCancel(ctx)
	p.giveUp = giveUp
	sandbox, wish := p.sandbox, p.wish
	return func() {
		a := attempt{pod: p}
		select {
		case s.slots <- struct{}{}:
			a.stop, a.err = s.open(attempting, sandbox, wish)
			<-s.slots
		case <-attempting.Done():
			a.err = attempting.Err()
		}
		select {
		case s.attempts <- a:
		case <-ctx.Done(): // nobody keeps listeners any more
			giveUp()
		}
	}
}

// open gives a sandbox its listeners; stop ends them.
func (s *Set) open(ctx context.Context, sandbox cri.Sandbox, wish Wish) (stop func(), err error) {
	began := time.Now()
	http, grpc, err := s.listen(ctx, sandbox.ID, wish)
	if err != nil {
		return nil, err
	}
	stop = s.opts.Serve(podOf(sandbox), http, grpc)
	s.metrics.listening(began, sandbox.Since)
	s.opts.Logger.Info("pod has the API on localhost", append(attrsOf(sandbox), slog.Duration("duration", time.Since(began)))...)
	return stop, nil
}

// note keeps the listeners that an attempt has made, or notes why there are none.
func (s *Set) note(ctx context.Context, a attempt) {
	p := a.pod
	p.giveUp()
	p.giveUp, p.stop = nil, a.stop
	switch {
	case p.dropped:
		s.close(p)
	case a.err != nil && ctx.Err() == nil:
		s.failed(ctx, p, a.err)
	}
}

// failed notes why a pod has no listeners, and says it where somebody wants to know.
func (s *Set) failed(ctx context.Context, p *pod, err error) {
	s.metrics.failed(err)
	refusal, final := refusalOf(err)
	switch {
	case final:
		p.refused = true
		s.opts.Logger.Log(ctx, levelOf(p.wish), "pod does not get the API on localhost", append(attrsOf(p.sandbox), slog.String("reason", refusal))...)
	case gone(err) && p.pause == firstPause: // it is most likely about to be no sandbox any more
		refusal = ""
	default:
		s.opts.Logger.Error("pod can't have the API on localhost", append(attrsOf(p.sandbox), slog.Any("err", err), slog.Duration("retry", p.pause))...)
	}
	if p.wish.Asked && refusal != "" && !p.told {
		p.told = true
		s.opts.Refused(Refusal{Pod: podOf(p.sandbox), Message: refusal})
	}
	p.retry, p.pause = time.Now().Add(p.pause), min(2*p.pause, longestPause)
}

func podOf(s cri.Sandbox) scope.Identity {
	return scope.Identity{Namespace: s.Namespace, Pod: s.Pod, PodUID: s.PodUID}
}

func attrsOf(s cri.Sandbox) []any {
	return []any{slog.String("namespace", s.Namespace), slog.String("pod", s.Pod), slog.String("sandbox", s.ID)}
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
