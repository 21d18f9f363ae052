package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// shape says how the files of a volume come about. A secret's only field is named as itself and becomes a file; several
// become a directory of files.
type shape struct{ secrets, fields int }

func (s shape) files() int { return s.secrets * s.fields }

func (s shape) String() string {
	return fmt.Sprintf("%d %s of %d %s", s.files(), plural(s.files(), "file"), s.secrets, plural(s.secrets, "secret"))
}

// name names the i-th secret of a volume of this shape.
func (s shape) name(i int) string { return fmt.Sprintf("%d-of-%d", i, s.fields) }

// names returns the names of all secrets, joined by commas.
func (s shape) names() string {
	var all []string
	for i := range s.secrets {
		all = append(all, s.name(i))
	}
	return strings.Join(all, ",")
}

// memory is a store with the secrets of all shapes, in memory.
type memory struct {
	mu      sync.Mutex
	changes map[string]int // secret name → how often it changed
}

// change changes the first field of a secret.
func (m *memory) change(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes[name]++
}

// fields returns what a secret, named by shape.name, holds now.
func (m *memory) fields(name string) map[string]string {
	var i, count int
	if _, err := fmt.Sscanf(name, "%d-of-%d", &i, &count); err != nil {
		panic(err) // no volume asks for others
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fields := map[string]string{}
	for k := range count {
		field := name
		if count > 1 {
			field = fmt.Sprint("field-", k)
		}
		fields[field] = secretValue(name, field)
		if k == 0 {
			fields[field] = fmt.Sprintf("%0*d", valueBytes, m.changes[name])
		}
	}
	return fields
}

// Fetch returns the secret that shape.name named.
func (m *memory) Fetch(_ context.Context, q providers.Query) (providers.Payload, error) {
	p := providers.Payload{Fields: map[string]secret.Value{}}
	for field, value := range m.fields(q.Name) {
		p.Fields[field] = secret.FromString(value)
	}
	return p, nil
}

func (m *memory) Close() error { return nil }

// node is everything that serves volumes, as cmd/agent wires it, with a store in memory, in this process.
type node struct {
	dir      string
	store    *memory
	resolver *resolve.Resolver
	volumes  *volume.Set
	server   *csi.Server
}

// newNode returns a node whose audit records, if they are wanted, go to a file.
func newNode(t testing.TB, audited bool) *node {
	t.Helper()
	n := &node{dir: scratch(t), store: &memory{changes: map[string]int{}}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"volumes", "state"} {
		must(os.Mkdir(filepath.Join(n.dir, dir), 0o755))
	}
	var audit *slog.Logger
	if audited {
		file, err := os.Create(filepath.Join(n.dir, "audit.log"))
		must(err)
		t.Cleanup(func() { _ = file.Close() })
		audit = slog.New(slog.NewJSONHandler(file, nil))
	}
	registry := prometheus.NewRegistry()

	n.resolver = resolve.New(resolve.Options{Audit: audit, Registerer: registry})
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

// volumeOf returns a volume that has not been published yet.
func (n *node) volumeOf(s shape) *mountedVolume {
	target := filepath.Join(n.dir, "volumes", fmt.Sprintf("%d-secrets-%d-fields", s.secrets, s.fields))
	return &mountedVolume{
		node: n, shape: s,
		publishing:   publish(target, memoryStore, s.names()),
		unpublishing: unpublish(target),
	}
}

// mountedVolume is a volume on a node, and the operations on it that are measured.
type mountedVolume struct {
	node         *node
	shape        shape
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

// rotateChanged rotates after the volume's first secret changed.
func (v *mountedVolume) rotateChanged() error {
	v.node.store.change(v.shape.name(0))
	v.node.resolver.Invalidate(memoryStore, v.shape.name(0))
	return v.rotate(true)
}

// rotateUnchanged rotates although nothing changed.
func (v *mountedVolume) rotateUnchanged() error { return v.rotate(false) }

func (v *mountedVolume) rotate(changes bool) error {
	outcome, err := v.node.volumes.Rotate(context.Background(), v.publishing.GetVolumeId())
	if err == nil && outcome.Changed != changes {
		err = fmt.Errorf("rotation of %v: changed is %t", v.shape, outcome.Changed)
	}
	return err
}

// check compares the volume's files with the store.
func (v *mountedVolume) check() error {
	for i := range v.shape.secrets {
		name := v.shape.name(i)
		for field, want := range v.node.store.fields(name) {
			path := filepath.Join(v.publishing.GetTargetPath(), name)
			if v.shape.fields > 1 {
				path = filepath.Join(path, field)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if string(got) != want {
				return fmt.Errorf("file %s is not what the store has", path)
			}
		}
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
