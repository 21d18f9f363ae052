package bench_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/netns/netnstest"
	"github.com/keywell/keywell/pkg/origin"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// podsWithListeners is how many pods of a node have listeners, of both protocols on both addresses.
const podsWithListeners = 250

// The targets for listeners in pods.
const (
	maxListenerStart  = 5 * time.Millisecond
	maxListenerMemory = 40 // KiB per pod
	maxListenerRatio  = 1.1
)

// listenersVariable names the file for what TestListeners measures, in a process of its own.
const listenersVariable = "KEYWELL_BENCH_LISTENERS"

// listenerFigures is what listeners in pods cost.
type listenerFigures struct {
	Starts                       []time.Duration // from the sandbox to the listeners
	Descriptors, Goroutines, KiB float64         // per pod
	Node, Pod, NodeGRPC, PodGRPC []time.Duration // of a request, in each round
}

// reportListeners measures listeners in bare network namespaces.
func reportListeners(t *testing.T) []row {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	file := filepath.Join(t.TempDir(), "figures.json")
	cmd := exec.Command(os.Args[0], "-test.run=^TestListeners$")
	cmd.Env = append(os.Environ(), listenersVariable+"="+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var f listenerFigures
	if err := json.Unmarshal(content, &f); err != nil {
		t.Fatal(err)
	}
	ofPods := fmt.Sprintf(", of %d", podsWithListeners)
	slow := slices.Sorted(slices.Values(f.Starts))[podsWithListeners*99/100]
	return []row{
		{name: "sandbox to listening, the runtime's answer aside, median" + ofPods, ours: micros(median(f.Starts)), limit: "≤ " + micros(maxListenerStart), within: median(f.Starts) <= maxListenerStart},
		{name: "the same, 99 of 100" + ofPods, ours: micros(slow), limit: "≤ " + micros(maxListenerStart), within: slow <= maxListenerStart},
		{name: "resident per pod" + ofPods, ours: fmt.Sprintf("%.1f KiB", f.KiB), limit: fmt.Sprintf("≤ %d KiB", maxListenerMemory), within: f.KiB <= maxListenerMemory},
		{name: "file descriptors per pod", ours: fmt.Sprintf("%.1f", f.Descriptors)},
		{name: "goroutines per pod", ours: fmt.Sprintf("%.1f", f.Goroutines)},
		{name: "HTTP GetSecret from a pod, client included; floor: the same at the node's address",
			ours: micros(median(f.Pod)), floor: micros(median(f.Node)), ratio: ratio(f.Pod, f.Node), target: maxListenerRatio},
		{name: "gRPC GetSecret from a pod, client included; floor: the same at the node's address",
			ours: micros(median(f.PodGRPC)), floor: micros(median(f.NodeGRPC)), ratio: ratio(f.PodGRPC, f.NodeGRPC), target: maxListenerRatio},
	}
}

// TestListeners is run by reportListeners.
func TestListeners(t *testing.T) {
	file := os.Getenv(listenersVariable)
	if file == "" {
		t.Skip("make bench runs it, in a process of its own")
	}
	n := newPodNode(t)
	var f listenerFigures
	goroutines, descriptors, resident := usage(t)
	for i := range podsWithListeners {
		f.Starts = append(f.Starts, n.startPod(t, i))
	}
	moreGoroutines, moreDescriptors, moreResident := usage(t)
	f.Goroutines = float64(moreGoroutines-goroutines) / podsWithListeners
	f.Descriptors = float64(moreDescriptors-descriptors) / podsWithListeners
	f.KiB = float64(moreResident-resident) / podsWithListeners
	f.measureRequests(t, n)
	content, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// usage is what this process has: goroutines, file descriptors, resident KiB.
func usage(t *testing.T) (goroutines, descriptors, resident int) {
	t.Helper()
	debug.FreeOSMemory()
	sizes, err := memoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(open), sizes["VmRSS"]
}

// measureRequests compares the last pod's requests to the same at the node's address, in turns.
func (f *listenerFigures) measureRequests(t *testing.T, n *podNode) {
	t.Helper()
	pod := n.namespaces[podsWithListeners-1]
	inPod := func(port string) func() (net.Conn, error) {
		return func() (net.Conn, error) { return pod.Dial(t.Context(), "127.0.0.1:"+port) }
	}
	onNode := func(l net.Listener) func() (net.Conn, error) {
		return func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
	}
	name := shape{secrets: 1, fields: 1}.name(0)
	fields := (&memory{}).fields(name)
	http, overPort := httpGet(onlyStore, name), grpcGet(onlyStore, name)
	var err error
	if http.answer, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	http.answer = append(http.answer, '\n') // as Dapr's
	if overPort.answer, err = proto.Marshal(&runtimev1pb.GetSecretResponse{Data: fields}); err != nil {
		t.Fatal(err)
	}
	costs := compare(t,
		requests(t, overHTTP(t, onNode(n.listeners.HTTP[0])), &http), requests(t, overHTTP(t, inPod("3500")), &http),
		requests(t, overGRPC(t, onNode(n.listeners.GRPC[0])), &overPort), requests(t, overGRPC(t, inPod("50001")), &overPort))
	f.Node, f.Pod, f.NodeGRPC, f.PodGRPC = costs[0].times, costs[1].times, costs[2].times, costs[3].times
}

func requests(t *testing.T, c client, want *call) operation {
	return func() error { return c.do(t.Context(), want) }
}

func overHTTP(t *testing.T, dial func() (net.Conn, error)) client {
	t.Helper()
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &httpClient{Conn: conn, answers: bufio.NewReader(conn)}
}

func overGRPC(t *testing.T, dial func() (net.Conn, error)) client {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///pod", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dial() }),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(passThrough{encoding.GetCodecV2(protocodec.Name)})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &grpcClient{conn}
}

// podNode is the API on the node's address and in pods, with a container runtime in memory.
type podNode struct {
	namespaces []*netnstest.Namespace
	listeners  api.Listeners
	set        *localhost.Set
	served     chan struct{}

	mu        sync.Mutex
	sandboxes map[string]cri.Sandbox
}

func newPodNode(t *testing.T) *podNode {
	t.Helper()
	n := &podNode{served: make(chan struct{}), sandboxes: map[string]cri.Sandbox{}}
	for range podsWithListeners {
		n.namespaces = append(n.namespaces, netnstest.New(t))
	}
	var err error
	if n.listeners, err = api.Listen(t.Context(), api.Addresses{HTTP: []string{"127.0.0.1:0"}, GRPC: []string{"127.0.0.1:0"}}); err != nil {
		t.Fatal(err)
	}
	onHTTP, onGRPC := origin.New(), origin.New()
	n.set, err = localhost.New(localhost.Options{
		Runtime: n, Wishes: n.wishes,
		Serve: func(id scope.Identity, http, grpc []net.Listener) func() {
			from := origin.Addr{Way: origin.Localhost, Identity: id}
			onHTTP.Add(from, http...)
			onGRPC.Add(from, grpc...)
			n.served <- struct{}{}
			return func() {}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := newAPI(t)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		all := api.Listeners{HTTP: append(n.listeners.HTTP, onHTTP), GRPC: append(n.listeners.GRPC, onGRPC)}
		if err := server.Run(ctx, all); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() { _ = n.set.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

// onlyStore is the store of a podNode.
const onlyStore = "memory"

// storeList is a list of that.
type storeList struct{}

func (storeList) Stores() []api.Store {
	return []api.Store{{Key: onlyStore, Name: onlyStore, Open: true}}
}

func (l storeList) Store(name string) (api.Store, bool) { return l.Stores()[0], name == onlyStore }

// newAPI serves the store from the cache.
func newAPI(t *testing.T) *api.Server {
	t.Helper()
	resolver := resolve.New(resolve.Options{})
	t.Cleanup(resolver.Close)
	var policy scope.Live
	open, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: onlyStore}}})
	if err != nil {
		t.Fatal(err)
	}
	policy.Set(open)
	resolver.Install(resolve.Store{Name: onlyStore, Provider: &memory{}})
	return api.New(api.Options{Policy: &policy, Resolver: resolver, Audit: resolver, Stores: storeList{}})
}

// startPod announces a sandbox and returns when its listeners are served.
func (n *podNode) startPod(t *testing.T, i int) time.Duration {
	t.Helper()
	id := fmt.Sprint(i)
	began := time.Now()
	n.mu.Lock()
	n.sandboxes[id] = cri.Sandbox{ID: id, Namespace: "bench", Pod: id, PodUID: id}
	n.mu.Unlock()
	n.set.Nudge()
	select {
	case <-n.served:
	case <-time.After(10 * time.Second):
		t.Fatal("the pod gets no listeners")
	}
	return time.Since(began)
}

func (n *podNode) Sandboxes() []cri.Sandbox {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.sandboxes))
}

func (n *podNode) NetworkNamespace(_ context.Context, id string) (string, error) {
	var i int
	_, err := fmt.Sscan(id, &i)
	return n.namespaces[i].Path(), err
}

func (n *podNode) wishes() map[string]localhost.Wish {
	all := make(map[string]localhost.Wish, podsWithListeners)
	for i := range podsWithListeners {
		all[fmt.Sprint(i)] = localhost.Wish{Wanted: true, Asked: true}
	}
	return all
}
