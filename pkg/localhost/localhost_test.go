package localhost_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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
	wishes    map[string]localhost.Wish
}

func (n *node) Sandboxes() []cri.Sandbox {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.sandboxes))
}

func (n *node) NetworkNamespace(_ context.Context, id string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[id]++
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
		sandboxes: map[string]cri.Sandbox{}, paths: map[string]string{}, errs: map[string]error{}, asked: map[string]int{}, wishes: map[string]localhost.Wish{},
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

// TestPods follows two pods through their lives.
func TestPods(t *testing.T) {
	n := newNode(t)
	a, b := netnstest.New(t), netnstest.New(t)
	n.run()
	n.wantNone(a)
	n.start("a", a)
	n.start("b", b)
	n.wantAPI("a", a)
	n.wantAPI("b", b)

	open, _, err := call(t, a, "127.0.0.1:3500")
	if err != nil {
		t.Fatal(err)
	}
	n.stop("a")
	if _, err := io.ReadAll(open); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection of a pod that has ended goes on: %v", err)
	}
	n.eventually(func() error {
		if _, _, err := call(t, a, "[::1]:50001"); err == nil {
			return errors.New("the listener goes on")
		}
		return nil
	})
	n.wantNone(a)
	n.wantAPI("b", b)

	// The pod's next sandbox has another namespace.
	again := netnstest.New(t)
	n.change(func() {
		n.sandboxes["a-2"] = cri.Sandbox{ID: "a-2", Namespace: "shop", Pod: "a", PodUID: "a"}
		n.paths["a-2"] = again.Path()
	})
	n.wantAPI("a", again)
	n.wantNone(a)

	if err := testutil.GatherAndCompare(n.registry, strings.NewReader(`
		# HELP keywell_localhost_attempts_total Attempts to give a pod the API on localhost, by result: ok, host_network, port_taken, refused (the pod's own wishes forbid it), gone, failed.
		# TYPE keywell_localhost_attempts_total counter
		keywell_localhost_attempts_total{result="ok"} 3
		# HELP keywell_localhost_pods Pods that have the API on localhost.
		# TYPE keywell_localhost_pods gauge
		keywell_localhost_pods 2
	`), "keywell_localhost_attempts_total", "keywell_localhost_pods"); err != nil {
		t.Error(err)
	}
}

// TestNamespaceIsNotPinned asserts that nothing of this process holds the namespace of a pod that has ended, though a
// call of the pod was under way.
func TestNamespaceIsNotPinned(t *testing.T) {
	n := newNode(t)
	ns := netnstest.New(t)
	n.run()
	n.start("a", ns)
	n.wantAPI("a", ns)
	conn, _, err := call(t, ns, "[::1]:3500")
	if err != nil {
		t.Fatal(err)
	}
	if len(ns.Holders(t)) == 0 {
		t.Fatal("the listeners are not seen")
	}
	n.stop("a")
	_, _ = io.ReadAll(conn)
	_ = conn.Close()
	n.eventually(func() error {
		// The calls of wantAPI are the pod's own ends.
		if held := ns.Holders(t); len(held) > len(addresses)+1 {
			return fmt.Errorf("held by %v", held)
		}
		return nil
	})
}

// TestRestart has one agent end and another begin, for a pod that goes on.
func TestRestart(t *testing.T) {
	ns := netnstest.New(t)
	first := newNode(t)
	end := first.run()
	first.start("a", ns)
	first.wantAPI("a", ns)
	end()
	first.wantNone(ns)
	second := newNode(t)
	second.start("a", ns)
	second.run()
	second.wantAPI("a", ns)
}

// TestRefused has pods that can't have listeners. Each is told once, however often something changes.
func TestRefused(t *testing.T) {
	sidecar, host := netnstest.New(t), netnstest.New(t)
	taken := make(map[string]*netnstest.Namespace)
	for _, address := range []string{"127.0.0.1:3500", "[::1]:3500", "0.0.0.0:50001", "[::]:50001"} {
		ns := netnstest.New(t)
		l, err := ns.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go hangUp(l)
		taken[address] = ns
	}
	n := newNode(t)
	n.run()
	for address, ns := range taken {
		n.start("taken", ns)
		n.wantRefusal("taken", "a process of the pod has port 3500 or 50001")
		n.settled()
		n.stop("taken")
		n.settled()
		for other := range addresses {
			if _, got, _ := call(t, ns, other); got != "" {
				t.Errorf("%s is taken, and %s answers %q", address, other, got)
			}
		}
	}

	n.change(func() { n.errs["host"] = cri.ErrHostNetwork })
	n.start("host", host)
	n.wantRefusal("host", "api: socket")
	own := cri.Sandbox{ID: "own", Namespace: "shop", Pod: "own", PodUID: "own"}
	n.change(func() { n.wishes["own"], n.sandboxes["own"], n.paths["own"] = asks, own, "/proc/self/ns/net" })
	n.wantRefusal("own", "hostNetwork")

	n.change(func() {
		n.wishes["sidecar"] = localhost.Asked.Wish(localhost.Pod{Volume: true, Sidecar: true})
		n.sandboxes["sidecar"] = cri.Sandbox{ID: "sidecar", Namespace: "shop", Pod: "sidecar", PodUID: "sidecar"}
		n.paths["sidecar"] = sidecar.Path()
	})
	n.wantRefusal("sidecar", "Dapr sidecar")
	n.wantNone(sidecar)
	n.settled()
	select {
	case r := <-n.refusals:
		t.Errorf("told again: %+v", r)
	default:
	}
	for _, id := range []string{"host", "own"} {
		if n.asked[id] != 1 {
			t.Errorf("%s was tried %d times", id, n.asked[id])
		}
	}
	n.change(func() { n.wishes["sidecar"] = asks }) // the annotation is removed
	n.wantAPI("sidecar", sidecar)
}

// TestDefaultIsQuiet has a pod that did not ask, and can't have what is given to all.
func TestDefaultIsQuiet(t *testing.T) {
	n := newNode(t)
	n.run()
	n.change(func() {
		n.wishes["host"] = localhost.All.Wish(localhost.Pod{})
		n.sandboxes["host"] = cri.Sandbox{ID: "host", Namespace: "shop", Pod: "host", PodUID: "host"}
		n.errs["host"] = cri.ErrHostNetwork
	})
	n.eventually(func() error {
		if !strings.Contains(n.log.String(), "level=DEBUG msg=\"pod does not get the API on localhost\"") {
			return errors.New("it is not in the log")
		}
		return nil
	})
	n.settled()
	if len(n.refusals) > 0 || strings.Contains(n.log.String(), "WARN") {
		t.Errorf("somebody is told\n%s", n.log)
	}
}

// TestRetries has a namespace that can't be had at first.
func TestRetries(t *testing.T) {
	for name, err := range map[string]error{"the runtime does not answer": errors.New("unavailable"), "not mounted here": nil} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			ns := netnstest.New(t)
			n.run()
			n.change(func() { n.errs["a"] = err })
			n.start("a", ns)
			if err == nil {
				n.change(func() { n.paths["a"] = "/run/netns/none" })
			} else {
				n.wantRefusal("a", "tries again")
			}
			n.eventually(func() error {
				n.mu.Lock()
				defer n.mu.Unlock()
				if n.asked["a"] == 0 {
					return errors.New("it is not tried")
				}
				return nil
			})
			n.change(func() { n.errs["a"], n.paths["a"] = nil, ns.Path() })
			n.wantAPI("a", ns)
		})
	}
}

func TestWithoutIPv6(t *testing.T) {
	n := newNode(t)
	ns := netnstest.New(t)
	if err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	n.run()
	n.start("a", ns)
	n.eventually(func() error {
		_, _, err := call(t, ns, "127.0.0.1:50001")
		return err
	})
	if _, got, err := call(t, ns, "127.0.0.1:3500"); err != nil || got != "http of shop/a" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUnknownPod has a sandbox before its pod is known: what it may be must be known first.
func TestUnknownPod(t *testing.T) {
	n := newNode(t)
	ns := netnstest.New(t)
	n.run()
	n.start("a", ns)
	n.change(func() { delete(n.wishes, "a") })
	n.settled()
	n.change(func() { n.wishes["a"] = asks })
	n.wantAPI("a", ns)
	n.change(func() { n.wishes["a"] = localhost.Asked.Wish(localhost.Pod{Annotation: "none", Volume: true}) })
	n.settled()
	n.wantNone(ns)
}

func TestWish(t *testing.T) {
	tests := []struct {
		byDefault localhost.Default
		pod       localhost.Pod
		want      localhost.Wish
	}{
		{localhost.Asked, localhost.Pod{}, localhost.Wish{}},
		{localhost.All, localhost.Pod{}, localhost.Wish{Wanted: true}},
		{localhost.Asked, localhost.Pod{Volume: true}, asks},
		{localhost.Asked, localhost.Pod{Annotation: "localhost"}, asks},
		{localhost.All, localhost.Pod{Annotation: "none"}, localhost.Wish{}},
		{localhost.All, localhost.Pod{Annotation: "none", Volume: true}, localhost.Wish{}},
		{localhost.Asked, localhost.Pod{Sidecar: true}, localhost.Wish{}},
		{localhost.All, localhost.Pod{Sidecar: true}, localhost.Wish{Wanted: true, Against: "Dapr sidecar"}},
		{localhost.Asked, localhost.Pod{Annotation: "localhost", Sidecar: true}, localhost.Wish{Wanted: true, Asked: true, Against: "Dapr sidecar"}},
		{localhost.Asked, localhost.Pod{Annotation: "Localhost"}, localhost.Wish{Wanted: true, Asked: true, Against: `"Localhost"; it must be localhost or none`}},
	}
	for _, test := range tests {
		got := test.byDefault.Wish(test.pod)
		if !strings.Contains(got.Against, test.want.Against) || (test.want.Against == "") != (got.Against == "") {
			t.Errorf("%s, %+v: against it is %q", test.byDefault, test.pod, got.Against)
		}
		got.Against = test.want.Against
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s, %+v: %s", test.byDefault, test.pod, diff)
		}
	}
	if _, err := localhost.ParseDefault("some"); err == nil || !strings.Contains(err.Error(), "asked or all") {
		t.Errorf("ParseDefault: %v", err)
	}
}

func TestNew(t *testing.T) {
	if _, err := localhost.New(localhost.Options{}); err == nil {
		t.Error("a Set without a runtime")
	}
}
