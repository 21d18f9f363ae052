package conformance_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

// agent is what there is of a running agent.
type agent struct {
	socket  string
	volumes *volume.Set
	log     *logtest.Buffer
}

// startAgent runs the CSI services over real volumes below pods, on a store with one secret. Only the store, which is
// in memory, is not what cmd/agent wires up.
func startAgent(t *testing.T, socket, stateDir, pods string) agent {
	t.Helper()
	log := &logtest.Buffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))

	store := providertest.NewMemory()
	store.Put("db", map[string]string{"password": secretValue})
	resolver := resolve.New(resolve.Options{Logger: logger, Audit: logger})
	t.Cleanup(resolver.Close)
	resolver.Install(resolve.Store{Name: "memory", Provider: store.Provider()})
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "memory", Source: "sanity_test.go"}}})
	if err != nil {
		t.Fatal(err)
	}
	var live scope.Live
	live.Set(policy)

	mounter, err := mount.New(pods)
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := volume.New(volume.Options{
		Authorizer: &live, Resolver: resolver, Mounter: mounter, StateDir: stateDir, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := csi.New(csi.Options{
		Version: "v0.0.0-sanity", NodeID: "node", Volumes: volumes, Identify: identity.FromVolumeContext, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := csi.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return agent{socket: socket, volumes: volumes, log: log}
}

// asKubelet puts a kubelet between the suite and the agent. The kubelet makes inline volumes up, so it is the kubelet
// that answers for the Controller service, whose existence it adds to the plugin's capabilities; and it says readonly
// when it publishes. Everything else is the suite's call and the agent's answer.
func asKubelet() grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		switch req := req.(type) {
		case *csipb.CreateVolumeRequest:
			proto.Merge(reply.(*csipb.CreateVolumeResponse), inlineVolume(req.GetName()))
			return nil
		case *csipb.DeleteVolumeRequest, *csipb.ControllerGetCapabilitiesRequest:
			return nil // nothing to delete, and no other capability
		case *csipb.NodePublishVolumeRequest:
			req.Readonly = true
		}
		err := invoke(ctx, method, req, reply, conn, opts...)
		if capabilities, ok := reply.(*csipb.GetPluginCapabilitiesResponse); ok && err == nil {
			capabilities.Capabilities = append(capabilities.Capabilities, &csipb.PluginCapability{
				Type: &csipb.PluginCapability_Service_{Service: &csipb.PluginCapability_Service{
					Type: csipb.PluginCapability_Service_CONTROLLER_SERVICE,
				}},
			})
		}
		return err
	})
}

// podUID is in the target path too, as with a kubelet.
const podUID = "6f1b5e2e-0000-4000-8000-000000000000"

// inlineVolume returns the ID and the context of a volume of one secret, as a kubelet would send them.
func inlineVolume(name string) *csipb.CreateVolumeResponse {
	return &csipb.CreateVolumeResponse{Volume: &csipb.Volume{
		VolumeId: fmt.Sprintf("csi-%x", sha256.Sum256([]byte(name))),
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/pod.name":            "sanity",
			"csi.storage.k8s.io/pod.namespace":       "default",
			"csi.storage.k8s.io/pod.uid":             podUID,
			"csi.storage.k8s.io/serviceAccount.name": "default",
			"csi.storage.k8s.io/ephemeral":           "true",
			"store":                                  "memory",
			"secrets":                                "db",
		},
	}}
}
