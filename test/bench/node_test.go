package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

// memoryStore is the name of the store in memory that volumes in this process read.
const memoryStore = "memory"

// memory is a store that has every secret. The first secret has another value in each generation.
type memory struct{ generation atomic.Int64 }

func (m *memory) Fetch(_ context.Context, q providers.Query) (providers.Payload, error) {
	return providers.Payload{Fields: map[string]secret.Value{q.Name: secret.FromString(m.value(q.Name))}}, nil
}

func (m *memory) Close() error { return nil }

// value is what a secret has now.
func (m *memory) value(name string) string {
	if name != secretName(0) {
		return secretValue(memoryStore, name)
	}
	return fmt.Sprintf("%0*d", valueBytes, m.generation.Load())
}

// node is everything that serves volumes, as cmd/agent wires it, with a store in memory, in this process.
type node struct {
	dir      string
	store    *memory
	resolver *resolve.Resolver
	volumes  *volume.Set
	server   *csi.Server
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{dir: scratch(t), store: &memory{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"volumes", "state"} {
		must(os.Mkdir(filepath.Join(n.dir, dir), 0o755))
	}
	audit, err := os.Create(filepath.Join(n.dir, "audit.log"))
	must(err)
	t.Cleanup(func() { _ = audit.Close() })
	registry := prometheus.NewRegistry()

	n.resolver = resolve.New(resolve.Options{Audit: slog.New(slog.NewJSONHandler(audit, nil)), Registerer: registry})
	t.Cleanup(n.resolver.Close)
	n.resolver.Install(resolve.Store{Name: memoryStore, Provider: n.store, Settings: resolve.Settings{RequestsPerSecond: 1e9, Burst: 1e9}})
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: memoryStore}}})
	must(err)
	live := &scope.Live{}
	live.Set(policy)

	mounter, err := mount.New(filepath.Join(n.dir, "volumes"))
	must(err)
	n.volumes, err = volume.New(volume.Options{
		Authorizer: live, Resolver: n.resolver, Mounter: mounter, StateDir: filepath.Join(n.dir, "state"), Registerer: registry,
	})
	must(err)
	n.server, err = csi.New(csi.Options{
		Version: "bench", NodeID: "bench", Volumes: n.volumes, Registerer: registry,
		Identify: identity.Standalone(scope.Identity{AppID: "bench"}),
	})
	must(err)
	return n
}

// volumeOf returns a volume with count files that has not been published yet.
func (n *node) volumeOf(count int) *mountedVolume {
	target := filepath.Join(n.dir, "volumes", fmt.Sprint("files-", count))
	return &mountedVolume{
		node: n, count: count,
		publishing:   publish(target, memoryStore, count),
		unpublishing: unpublish(target),
	}
}

// mountedVolume is a volume on a node, and the operations on it that are measured.
type mountedVolume struct {
	node         *node
	count        int // files
	publishing   *csipb.NodePublishVolumeRequest
	unpublishing *csipb.NodeUnpublishVolumeRequest
}

func (v *mountedVolume) publish() error {
	_, err := v.node.server.NodePublishVolume(context.Background(), v.publishing)
	return err
}

func (v *mountedVolume) unpublish() error {
	_, err := v.node.server.NodeUnpublishVolume(context.Background(), v.unpublishing)
	return err
}

// cycle publishes and unpublishes.
func (v *mountedVolume) cycle() error {
	if err := v.publish(); err != nil {
		return err
	}
	return v.unpublish()
}

// rotateChanged rotates after one secret changed.
func (v *mountedVolume) rotateChanged() error {
	v.node.store.generation.Add(1)
	v.node.resolver.Invalidate(memoryStore, secretName(0))
	return v.rotate(true)
}

// rotateUnchanged rotates although nothing changed.
func (v *mountedVolume) rotateUnchanged() error { return v.rotate(false) }

func (v *mountedVolume) rotate(changes bool) error {
	outcome, err := v.node.volumes.Rotate(context.Background(), v.publishing.GetVolumeId())
	if err == nil && outcome.Changed != changes {
		err = fmt.Errorf("rotation of %d files: changed is %t", v.count, outcome.Changed)
	}
	return err
}

// check compares the volume's files with the store.
func (v *mountedVolume) check() error {
	entries, err := os.ReadDir(v.publishing.GetTargetPath())
	if err != nil {
		return err
	}
	files := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		files++
		data, err := os.ReadFile(filepath.Join(v.publishing.GetTargetPath(), e.Name()))
		if err != nil {
			return err
		}
		if string(data) != v.node.store.value(e.Name()) {
			return fmt.Errorf("file %s is not what the store has", e.Name())
		}
	}
	if files != v.count {
		return fmt.Errorf("volume has %d files, want %d", files, v.count)
	}
	return nil
}

// serve serves the node's CSI socket until the test ends, and returns a client of it.
func (n *node) serve(t testing.TB) csipb.NodeClient {
	t.Helper()
	path := filepath.Join(n.dir, "csi.sock")
	socket, err := csi.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.server.Serve(ctx, socket) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return dialNode(t, path)
}

// dialNode returns a client of a CSI socket.
func dialNode(t testing.TB, socket string) csipb.NodeClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return csipb.NewNodeClient(conn)
}
