package localhost_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/netns/netnstest"
	"github.com/keywell/keywell/pkg/origin"
	"github.com/keywell/keywell/pkg/scope"
)

// node is a Set with everything around it: a runtime and pods in memory, and servers that tell callers who they are.
type node struct {
	*testing.T
	set        *localhost.Set
	http, grpc *origin.Listener
	log        *logtest.Buffer
	registry   *prometheus.Registry
	refusals   chan localhost.Refusal

	mu        sync.Mutex
	sandboxes map[string]cri.Sandbox
	paths     map[string]string // sandbox ID → path of its namespace
	errs      map[string]error  // sandbox ID → why there is no path
	asked     map[string]int    // sandbox ID → how often its path was asked for
	silent    map[string]bool   // sandbox ID → its path is not told, as long as anybody waits
	wishes    map[string]localhost.Wish
}

func (n *node) Sandboxes() []cri.Sandbox {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.sandboxes))
}

func (n *node) NetworkNamespace(ctx context.Context, id string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[id]++
	if n.silent[id] {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return "", ctx.Err()
	}
	return n.paths[id], n.errs[id]
}

func (n *node) allWishes() map[string]localhost.Wish {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.wishes)
}

var asks = localhost.Wish{Wanted: true, Asked: true}

// change changes what the runtime and the pods say, and lets the Set know.
func (n *node) change(do func()) {
	n.mu.Lock()
	do()
	n.mu.Unlock()
	n.set.Nudge()
}

// start makes a sandbox of a pod of the same name in a namespace, and the pod asks for listeners.
func (n *node) start(pod string, ns *netnstest.Namespace) {
	n.change(func() {
		n.wishes[pod] = asks
		n.sandboxes[pod] = cri.Sandbox{ID: pod, Namespace: "shop", Pod: pod, PodUID: pod, Since: time.Now()}
		n.paths[pod] = ns.Path()
	})
}

func (n *node) stop(pod string) { n.change(func() { delete(n.sandboxes, pod) }) }

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{
		T: t, http: origin.New(), grpc: origin.New(), log: &logtest.Buffer{}, registry: prometheus.NewRegistry(), refusals: make(chan localhost.Refusal, 100),
		sandboxes: map[string]cri.Sandbox{}, paths: map[string]string{}, errs: map[string]error{}, asked: map[string]int{}, silent: map[string]bool{}, wishes: map[string]localhost.Wish{},
	}
	go greet(n.http, "http")
	go greet(n.grpc, "grpc")
	var err error
	n.set, err = localhost.New(localhost.Options{
		Runtime: n, Wishes: n.allWishes, Refused: func(r localhost.Refusal) { n.refusals <- r }, Registerer: n.registry,
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Serve: func(id scope.Identity, http, grpc []net.Listener) func() {
			from := origin.Addr{Way: origin.Localhost, Identity: id}
			onHTTP, onGRPC := n.http.Add(from, http...), n.grpc.Add(from, grpc...)
			return func() { onHTTP.Close(); onGRPC.Close() }
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs the Set until the test ends, or the func is called that it returns.
func (n *node) run() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.set.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			n.Errorf("Run: %v", err)
		}
		_ = n.http.Close()
		_ = n.grpc.Close()
	})
	n.Cleanup(end)
	return end
}

// greet tells each caller the port and whose call it takes theirs for; then it waits for them to hang up.
func greet(l net.Listener, port string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = fmt.Fprintf(c, "%s of %s\n", port, c.RemoteAddr())
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

// hangUp answers nobody.
func hangUp(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// call connects in a namespace and returns what it is told.
func call(t *testing.T, ns *netnstest.Namespace, address string) (conn net.Conn, answer string, err error) {
	t.Helper()
	if conn, err = ns.Dial(t.Context(), address); err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 100)
	got, err := conn.Read(buffer)
	return conn, strings.TrimSpace(string(buffer[:got])), err
}

var addresses = map[string]string{"127.0.0.1:3500": "http", "[::1]:3500": "http", "127.0.0.1:50001": "grpc", "[::1]:50001": "grpc"}

// eventually repeats a check until it returns nil.
func (n *node) eventually(check func() error) {
	n.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			n.Fatalf("%v\n%s", err, n.log)
		}
	}
}

// wantAPI waits until a namespace has the listeners of a pod, on every address.
func (n *node) wantAPI(pod string, ns *netnstest.Namespace) {
	n.Helper()
	n.eventually(func() error {
		_, _, err := call(n.T, ns, "[::1]:50001") // the last that is opened
		return err
	})
	for address, port := range addresses {
		if _, got, err := call(n.T, ns, address); err != nil || got != port+" of shop/"+pod {
			n.Errorf("%s in pod %s: %q, %v", address, pod, got, err)
		}
	}
}

// wantNone fails if anybody listens in a namespace.
func (n *node) wantNone(ns *netnstest.Namespace) {
	n.Helper()
	for address := range addresses {
		if _, got, err := call(n.T, ns, address); !errors.Is(err, unix.ECONNREFUSED) {
			n.Errorf("%s: %q, %v", address, got, err)
		}
	}
}

func (n *node) wantRefusal(pod, text string) {
	n.Helper()
	select {
	case r := <-n.refusals:
		if r.Pod != (scope.Identity{Namespace: "shop", Pod: pod, PodUID: pod}) || !strings.Contains(r.Message, text) {
			n.Errorf("refusal %+v, want one of %s with %q", r, pod, text)
		}
	case <-time.After(10 * time.Second):
		n.Fatalf("pod %s is not told %q\n%s", pod, text, n.log)
	}
}

// settled waits until everything that was said has been acted upon: a pod that comes last has its listeners.
func (n *node) settled() {
	n.Helper()
	ns := netnstest.New(n)
	n.start("last", ns)
	n.wantAPI("last", ns)
	n.stop("last")
	n.eventually(func() error {
		if held := ns.Holders(n); len(held) > 2*len(addresses) { // connections of this test aside
			return fmt.Errorf("held by %v", held)
		}
		return nil
	})
}
