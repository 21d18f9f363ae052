package csi_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/volume"
)

// volumes is a hand-written volume.Set: it records what it is asked for and answers with what the test set.
type volumes struct {
	publish   func(context.Context, volume.Request) error // nil: succeeds
	unpublish func() error
	stats     func() (volume.Stats, error)

	mu          sync.Mutex
	published   []volume.Request
	unpublished [][2]string // volume ID, target path
	asked       [][2]string // volume ID, path
}

func (v *volumes) Publish(ctx context.Context, req volume.Request) error {
	v.mu.Lock()
	v.published = append(v.published, req)
	v.mu.Unlock()
	if v.publish == nil {
		return nil
	}
	return v.publish(ctx, req)
}

func (v *volumes) Unpublish(_ context.Context, id, target string) error {
	v.mu.Lock()
	v.unpublished = append(v.unpublished, [2]string{id, target})
	v.mu.Unlock()
	if v.unpublish == nil {
		return nil
	}
	return v.unpublish()
}

func (v *volumes) Stats(id, path string) (volume.Stats, error) {
	v.mu.Lock()
	v.asked = append(v.asked, [2]string{id, path})
	v.mu.Unlock()
	if v.stats == nil {
		return volume.Stats{}, nil
	}
	return v.stats()
}

// plugin is a running server, as the kubelet sees it.
type plugin struct {
	csipb.IdentityClient
	csipb.NodeClient
	volumes  *volumes
	log      *logtest.Buffer
	registry *prometheus.Registry
}

// start runs a Server on a socket until the test ends.
func start(t *testing.T, change func(*csi.Options)) *plugin {
	t.Helper()
	p := &plugin{volumes: &volumes{}, log: &logtest.Buffer{}, registry: prometheus.NewPedanticRegistry()}
	opts := csi.Options{
		Version:    "v1.2.3",
		NodeID:     "node-7",
		Volumes:    p.volumes,
		Identify:   identity.FromVolumeContext,
		Logger:     slog.New(slog.NewJSONHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: p.registry,
	}
	if change != nil {
		change(&opts)
	}
	server, err := csi.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	socket := socketPath(t)
	l, err := csi.Listen("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	conn := dial(t, socket)
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	p.IdentityClient, p.NodeClient = csipb.NewIdentityClient(conn), csipb.NewNodeClient(conn)
	return p
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// socketPath returns a path in a directory that does not exist yet. t.TempDir can be too long for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "plugins", "csi.sock")
}

const target = "/var/lib/kubelet/pods/0f3c/volumes/kubernetes.io~csi/db/mount"

// publishRequest is what a kubelet sends for an inline volume with readOnly: true and an fsGroup.
func publishRequest(changes ...func(*csipb.NodePublishVolumeRequest)) *csipb.NodePublishVolumeRequest {
	req := &csipb.NodePublishVolumeRequest{
		VolumeId:   "csi-1",
		TargetPath: target,
		VolumeCapability: &csipb.VolumeCapability{
			AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{
				VolumeMountGroup: "2000",
				MountFlags:       []string{`context="system_u:object_r:container_file_t:s0"`},
			}},
		},
		Readonly: true,
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/pod.name":            "web-0",
			"csi.storage.k8s.io/pod.namespace":       "shop",
			"csi.storage.k8s.io/pod.uid":             "0f3c",
			"csi.storage.k8s.io/serviceAccount.name": "web",
			"csi.storage.k8s.io/ephemeral":           "true",
			"secrets":                                "db",
		},
	}
	for _, change := range changes {
		change(req)
	}
	return req
}
