package api_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// asPlugin serves the API with a socket for a daprd, and returns a connection to it.
func (f *fixture) asPlugin() *grpc.ClientConn {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "keywell.sock")
	l, err := api.Listen(f.t.Context(), api.Addresses{HTTP: []string{"127.0.0.1:0"}, GRPC: []string{"127.0.0.1:0"}, PluginSocket: path})
	if err != nil {
		f.t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		f.t.Errorf("the socket: %v, %v", info, err)
	}
	f.serve(l)
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// component returns the context of the calls for a component of a daprd.
func component(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-component-instance", name)
}

// TestPlugin makes the calls that a daprd makes, which has no token to send although the agent wants one of others.
func TestPlugin(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"user": "u", "password": "p"})
	m.Put("root", map[string]string{"root": "r"})
	f := newFixture(t).withStore("vault", m).with(api.Store{Name: "broken", Type: "secretstores.memory"}, nil)
	f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"root"}}}
	f.setPolicy()
	f.stores.list[0].Capabilities = []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}
	f.options.Token = secret.FromString("token")
	conn := f.asPlugin()
	client := componentsv1pb.NewSecretStoreClient(conn)
	ctx := component(t.Context(), "vault")

	if services := reflected(t, conn); !slices.Contains(services, "dapr.proto.components.v1.SecretStore") {
		t.Errorf("services: %q", services)
	}
	if _, err := client.Init(ctx, &componentsv1pb.SecretStoreInitRequest{Metadata: &componentsv1pb.MetadataRequest{}}); err != nil {
		t.Errorf("Init: %v", err)
	}
	features, err := client.Features(ctx, &componentsv1pb.FeaturesRequest{})
	if err != nil || !slices.Equal(features.GetFeatures(), []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}) {
		t.Errorf("Features: %v, %v", features, err)
	}
	if _, err := client.Ping(ctx, &componentsv1pb.PingRequest{}); err != nil {
		t.Errorf("Ping: %v", err)
	}
	got, err := client.Get(ctx, &componentsv1pb.GetSecretRequest{Key: "db"})
	if diff := cmp.Diff(map[string]string{"user": "u", "password": "p"}, got.GetData()); diff != "" || err != nil {
		t.Errorf("Get: %v (-want +got):\n%s", err, diff)
	}
	m.Put("db", map[string]string{"user": "u", "password": "p2"})
	got, err = client.Get(ctx, &componentsv1pb.GetSecretRequest{Key: "db", Metadata: map[string]string{"version_id": "1"}})
	if got.GetData()["password"] != "p" || err != nil {
		t.Errorf("Get of a version: %v", err)
	}
	bulk, err := client.BulkGet(ctx, &componentsv1pb.BulkGetSecretRequest{})
	if len(bulk.GetData()) != 1 || bulk.GetData()["db"].GetSecrets()["user"] != "u" || err != nil {
		t.Errorf("BulkGet: %d secrets, %v", len(bulk.GetData()), err)
	}

	for name, tc := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"denied":             {func() error { _, err := client.Get(ctx, &componentsv1pb.GetSecretRequest{Key: "root"}); return err }, codes.PermissionDenied},
		"missing":            {func() error { _, err := client.Get(ctx, &componentsv1pb.GetSecretRequest{Key: "no"}); return err }, codes.Internal},
		"Init, no such":      {func() error { return initialise(component(t.Context(), "nowhere"), client) }, codes.InvalidArgument},
		"Init, closed":       {func() error { return initialise(component(t.Context(), "broken"), client) }, codes.InvalidArgument},
		"Init, no component": {func() error { return initialise(t.Context(), client) }, codes.InvalidArgument},
	} {
		if err := tc.call(); status.Code(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func initialise(ctx context.Context, client componentsv1pb.SecretStoreClient) error {
	_, err := client.Init(ctx, &componentsv1pb.SecretStoreInitRequest{})
	return err
}

// reflected lists the services as a daprd does.
func reflected(t *testing.T, conn *grpc.ClientConn) (names []string) {
	t.Helper()
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(t.Context(), both, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") // v1's messages are the same
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.SendMsg(request); err != nil {
		t.Fatal(err)
	}
	answer := new(reflectionpb.ServerReflectionResponse)
	if err := stream.RecvMsg(answer); err != nil {
		t.Fatal(err)
	}
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

// TestPluginIsElsewhere has no other socket speak the plugins' protocol, and this one no other; and a caller who is not
// known by its connection be refused.
func TestPluginIsElsewhere(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"db": "x"})
	f := newFixture(t).withStore("vault", m)
	f.options.Attest = func(_ context.Context, e api.Evidence) (scope.Identity, error) {
		if _, ok := e.Peer.(*net.UnixAddr); ok {
			return scope.Identity{}, context.Canceled
		}
		return scope.Identity{AppID: appID}, nil
	}
	_, api := f.run().client(t)
	if err := initialise(component(t.Context(), "vault"), componentsv1pb.NewSecretStoreClient(api)); status.Code(err) == codes.OK {
		t.Error("the API's port is a plugin")
	}
	f.options.Registerer = nil
	plugin := f.asPlugin()
	if err := initialise(component(t.Context(), "vault"), componentsv1pb.NewSecretStoreClient(plugin)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a caller who is not known: %v", err)
	}
}
