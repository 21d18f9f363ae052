package cri_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/cri"
)

// fake is a container runtime with sandboxes that tests make.
type fake struct {
	runtimev1.UnimplementedRuntimeServiceServer
	mu        sync.Mutex
	sandboxes map[string]*runtimev1.PodSandboxStatus
	info      map[string]map[string]string // sandbox ID → verbose status
	events    chan *runtimev1.ContainerEventResponse
	noEvents  bool
	old       bool   // it does not know of events
	listed    func() // called while a list is under way, after it was made
	lists     int
}

func (f *fake) GetContainerEvents(_ *runtimev1.GetEventsRequest, stream grpc.ServerStreamingServer[runtimev1.ContainerEventResponse]) error {
	switch {
	case f.old:
		return f.UnimplementedRuntimeServiceServer.GetContainerEvents(nil, stream)
	case f.noEvents:
		return nil
	}
	for {
		select {
		case e := <-f.events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (f *fake) ListPodSandbox(_ context.Context, req *runtimev1.ListPodSandboxRequest) (*runtimev1.ListPodSandboxResponse, error) {
	f.mu.Lock()
	f.lists++
	var answer runtimev1.ListPodSandboxResponse
	for id, s := range f.sandboxes {
		if s.GetState() == req.GetFilter().GetState().GetState() {
			answer.Items = append(answer.Items, &runtimev1.PodSandbox{Id: id, Metadata: s.GetMetadata(), State: s.GetState()})
		}
	}
	listed := f.listed
	f.mu.Unlock()
	if listed != nil {
		listed()
	}
	return &answer, nil
}

func (f *fake) PodSandboxStatus(_ context.Context, req *runtimev1.PodSandboxStatusRequest) (*runtimev1.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sandboxes[req.GetPodSandboxId()]
	if !ok || !req.GetVerbose() {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &runtimev1.PodSandboxStatusResponse{Status: s, Info: f.info[req.GetPodSandboxId()]}, nil
}

const (
	ready    = runtimev1.PodSandboxState_SANDBOX_READY
	notReady = runtimev1.PodSandboxState_SANDBOX_NOTREADY
	created  = runtimev1.ContainerEventType_CONTAINER_CREATED_EVENT
	started  = runtimev1.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped  = runtimev1.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted  = runtimev1.ContainerEventType_CONTAINER_DELETED_EVENT
)

// put makes or changes a sandbox, whose pod has the same name and is in namespace shop.
func (f *fake) put(id string, state runtimev1.PodSandboxState) *runtimev1.PodSandboxStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &runtimev1.PodSandboxStatus{Id: id, State: state, Metadata: &runtimev1.PodSandboxMetadata{Name: id, Namespace: "shop", Uid: "uid-" + id}}
	f.sandboxes[id] = s
	return s
}

func (f *fake) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sandboxes, id)
}

func (f *fake) send(kind runtimev1.ContainerEventType, container string, s *runtimev1.PodSandboxStatus) {
	f.events <- &runtimev1.ContainerEventResponse{ContainerId: container, ContainerEventType: kind, CreatedAt: 1e9, PodSandboxStatus: s}
}

func newFake() *fake {
	return &fake{sandboxes: map[string]*runtimev1.PodSandboxStatus{}, info: map[string]map[string]string{}, events: make(chan *runtimev1.ContainerEventResponse)}
}

// serve serves the runtime on a socket; stop ends it as a crash would.
func (f *fake) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimev1.RegisterRuntimeServiceServer(server, f)
	go func() { _ = server.Serve(l) }()
	stop = sync.OnceFunc(server.Stop)
	t.Cleanup(stop)
	return stop
}

// watcher follows a fake.
type watcher struct {
	*cri.Runtime
	changes  chan struct{}
	log      *logtest.Buffer
	registry *prometheus.Registry
}

// follow follows the runtime on a socket until the test ends.
func follow(t *testing.T, socket string) *watcher {
	t.Helper()
	w := &watcher{changes: make(chan struct{}, 1000), log: &logtest.Buffer{}, registry: prometheus.NewRegistry()}
	var err error
	w.Runtime, err = cri.New(cri.Options{
		Socket: socket, Changed: func() { w.changes <- struct{}{} }, Logger: slog.New(slog.NewTextHandler(w.log, nil)), Registerer: w.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

func start(t *testing.T) (*fake, *watcher) {
	t.Helper()
	f, socket := newFake(), filepath.Join(t.TempDir(), "cri.sock")
	f.serve(t, socket)
	return f, follow(t, socket)
}

// wait waits until the ready sandboxes are those.
func (w *watcher) wait(t *testing.T, want ...string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		var got []string
		for _, s := range w.Sandboxes() {
			got = append(got, s.ID)
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-w.changes:
		case <-deadline:
			t.Fatalf("sandboxes %q, want %q\n%s", got, want, w.log)
		}
	}
}

// waitLog waits until the log has a text.
func (w *watcher) waitLog(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !strings.Contains(w.log.String(), text) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the log lacks %q:\n%s", text, w.log)
		}
	}
}

// TestEvents sends what containerd and CRI-O send for a pod's life.
func TestEvents(t *testing.T) {
	f, w := start(t)
	f.send(created, "a", f.put("a", notReady)) // CRI-O, before it has started the sandbox
	f.send(started, "a", f.put("a", ready))
	w.wait(t, "a")
	got := w.Sandboxes()[0]
	want := cri.Sandbox{ID: "a", Namespace: "shop", Pod: "a", PodUID: "uid-a", Since: time.Unix(1, 0)}
	if got.Since.IsZero() { // on a busy machine, the second list was quicker than the event
		want.Since = time.Time{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	f.send(started, "main", f.put("a", ready))
	f.send(created, "b", f.put("b", ready))
	w.wait(t, "a", "b")
	f.send(stopped, "main", f.put("a", ready))
	f.send(deleted, "main", f.put("a", ready))
	f.send(stopped, "a", f.put("a", ready)) // whatever state it says, it has stopped
	w.wait(t, "b")
	f.remove("b")
	f.send(deleted, "b", nil) // there is no status any more
	w.wait(t)
}

// TestList has sandboxes from before, one of which goes while they are listed.
func TestList(t *testing.T) {
	f, socket := newFake(), filepath.Join(t.TempDir(), "cri.sock")
	f.put("old", ready)
	f.put("dead", notReady)
	f.put("going", ready)
	f.listed = sync.OnceFunc(func() {
		f.remove("going")
		f.send(deleted, "going", nil)
		f.send(started, "coming", f.put("coming", ready))
		f.send(started, "x", nil) // the answer waits until those before have been read
	})
	f.serve(t, socket)
	w := follow(t, socket)
	w.wait(t, "coming", "old")
	for _, s := range w.Sandboxes() {
		if s.Since.IsZero() != (s.ID == "old") {
			t.Errorf("%s is known since %v", s.ID, s.Since)
		}
	}
}

// TestMissedEvent has a sandbox start before events begin and after the list was made.
func TestMissedEvent(t *testing.T) {
	f, socket := newFake(), filepath.Join(t.TempDir(), "cri.sock")
	f.listed = sync.OnceFunc(func() { f.put("a", ready) })
	f.serve(t, socket)
	follow(t, socket).wait(t, "a")
}

// TestRuntimeRestarts asserts that what happens while the runtime is away is noticed, and nothing is forgotten before.
func TestRuntimeRestarts(t *testing.T) {
	f, socket := newFake(), filepath.Join(t.TempDir(), "cri.sock")
	stop := f.serve(t, socket)
	w := follow(t, socket)
	f.send(started, "a", f.put("a", ready))
	f.send(started, "b", f.put("b", ready))
	w.wait(t, "a", "b")
	stop()
	w.wait(t, "a", "b")
	f.remove("a")
	f.put("c", ready)
	f.serve(t, socket)
	w.wait(t, "b", "c")
	w.waitLog(t, "is not followed")
}

// TestNoEvents has runtimes that send none: CRI-O as it is configured by default ends the stream, and one that is too old
// does not know the call. Both are listed again and again, and the log has the remedy.
func TestNoEvents(t *testing.T) {
	for name, test := range map[string]struct {
		set    func(*fake)
		remedy string
	}{
		"CRI-O without enable_pod_events": {func(f *fake) { f.noEvents = true }, "enable_pod_events = true in [crio.runtime]"},
		"too old":                         {func(f *fake) { f.old = true }, "containerd does since 1.7"},
	} {
		t.Run(name, func(t *testing.T) { testNoEvents(t, test.set, test.remedy) })
	}
}

func testNoEvents(t *testing.T, set func(*fake), remedy string) {
	t.Helper()
	f, socket := newFake(), filepath.Join(t.TempDir(), "cri.sock")
	set(f)
	f.put("a", ready)
	f.serve(t, socket)
	w := follow(t, socket)
	w.wait(t, "a")
	f.put("b", ready)
	w.wait(t, "a", "b")
	w.waitLog(t, remedy)
	if err := testutil.GatherAndCompare(w.registry, strings.NewReader(`
		# HELP keywell_cri_following 1 while the agent follows the container runtime's events, 0 while it can't.
		# TYPE keywell_cri_following gauge
		keywell_cri_following 0
	`)); err != nil {
		t.Error(err)
	}
}

// TestOldEvents has events from long ago, which CRI-O keeps for whoever asks first, up to a thousand: sandboxes that have
// gone since, whose end may have been lost. The list that follows is right.
func TestOldEvents(t *testing.T) {
	f, socket := newFake(), filepath.Join(t.TempDir(), "cri.sock")
	dead := f.put("dead", ready)
	f.remove("dead")
	f.listed = sync.OnceFunc(func() {
		f.send(started, "dead", dead)
		f.send(stopped, "main", dead)
		f.send(started, "new", f.put("new", ready))
	})
	f.serve(t, socket)
	follow(t, socket).wait(t, "new")
}

// Parts of what crictl inspectp prints. CRI-O's are what createSandboxInfo makes in server/sandbox_status.go, the same from
// 1.26 to 1.36: the OCI specification, whose namespaces have the paths of namespaces_dir, and, unless the sandbox has no
// container of its own (it is "spoofed"), image and pid before it.
const (
	ofContainerd = `{"pid": 1234, "processStatus": "running", "netNamespaceClosed": false, "runtimeSpec": {"ociVersion": "1.2.1", "linux": {
		"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/var/run/netns/cni-1"}]}},
		"sandboxMetadata": {"Version": "v1", "Metadata": {"ID": "a", "NetNSPath": "/var/run/netns/cni-1"}}}`
	ofContainerdShim = `{"pid": 0, "runtimeSpec": null, "sandboxMetadata": {"Version": "v1", "Metadata": {"ID": "a", "NetNSPath": "/var/run/netns/cni-2"}}}`
	ofCRIO           = `{"image": "pause", "pid": 1234, "runtimeSpec": {"linux": {"namespaces": [{"type": "ipc", "path": "/var/run/ipcns/3"}, {"type": "network", "path": "/var/run/netns/3"}]}}}`
	ofCRIOSpoofed    = `{"runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/4"}]}}}`
)

func TestNetworkNamespace(t *testing.T) {
	f, w := start(t)
	host := f.put("host", ready)
	host.Linux = &runtimev1.LinuxPodSandboxStatus{Namespaces: &runtimev1.Namespace{Options: &runtimev1.NamespaceOption{Network: runtimev1.NamespaceMode_NODE}}}
	f.put("stopped", notReady)
	tests := []struct {
		name, info, want string
		err              error
		text             string
	}{
		{name: "containerd", info: ofContainerd, want: "/var/run/netns/cni-1"},
		{name: "containerd without a container of its own", info: ofContainerdShim, want: "/var/run/netns/cni-2"},
		{name: "CRI-O", info: ofCRIO, want: "/var/run/netns/3"},
		{name: "CRI-O without a container of its own", info: ofCRIOSpoofed, want: "/var/run/netns/4"},
		{name: "host", info: ofContainerd, err: cri.ErrHostNetwork},
		{name: "stopped", info: ofContainerd, err: cri.ErrGone},
		{name: "missing", err: cri.ErrGone},
		{name: "nothing", text: "no verbose part"},
		{name: "no JSON", info: "pid: 1", text: "not JSON"},
		{name: "no namespace", info: "{}", text: "names no network namespace"},
		{name: "relative", info: `{"sandboxMetadata": {"Metadata": {"NetNSPath": "netns/1"}}}`, text: "not an absolute path"},
		{name: "not clean", info: `{"sandboxMetadata": {"Metadata": {"NetNSPath": "/run/netns/../../x"}}}`, text: "not an absolute path"},
		{name: "of a process", info: `{"sandboxMetadata": {"Metadata": {"NetNSPath": "/proc/1/ns/net"}}}`, text: "manage_ns_lifecycle"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			switch test.name {
			case "host", "stopped", "missing":
			default:
				f.put(test.name, ready)
			}
			if test.info != "" {
				f.mu.Lock()
				f.info[test.name] = map[string]string{"info": test.info}
				f.mu.Unlock()
			}
			got, err := w.NetworkNamespace(t.Context(), test.name)
			switch {
			case got != test.want:
				t.Errorf("%q, want %q", got, test.want)
			case test.err != nil && !errors.Is(err, test.err), test.text != "" && (err == nil || !strings.Contains(err.Error(), test.text)),
				test.err == nil && test.text == "" && err != nil:
				t.Errorf("error %v", err)
			}
		})
	}
}

// FuzzNamespaceOf asserts that no status leads to a path that could be another's.
func FuzzNamespaceOf(f *testing.F) {
	for _, info := range []string{ofContainerd, ofContainerdShim, ofCRIO, ofCRIOSpoofed, "", "{}", `{"sandboxMetadata": {"Metadata": {"NetNSPath": "/proc/1/ns/net"}}}`} {
		f.Add(info)
	}
	f.Fuzz(func(t *testing.T, info string) {
		path, err := cri.NamespaceOf(info)
		if (path == "") != (err != nil) || err == nil && (!filepath.IsAbs(path) || filepath.Clean(path) != path || strings.HasPrefix(path, "/proc/")) {
			t.Errorf("%q, %v", path, err)
		}
	})
}

func TestNoRuntime(t *testing.T) {
	w := follow(t, filepath.Join(t.TempDir(), "none.sock"))
	w.waitLog(t, "is not followed")
	if _, err := w.NetworkNamespace(t.Context(), "a"); err == nil || errors.Is(err, cri.ErrGone) {
		t.Errorf("%v", err)
	}
	if _, err := cri.New(cri.Options{Socket: "containerd.sock"}); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("a relative path: %v", err)
	}
}
