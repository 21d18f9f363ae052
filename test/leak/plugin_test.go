package leak_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// blabber is a plugin that tells what it knows in every error: what Init brought, and what it was to give.
type blabber struct {
	componentsv1pb.UnimplementedSecretStoreServer

	mu       sync.Mutex
	password string            // of its one secret, db
	told     map[string]string // what Init brought
}

// serveBlabber serves the type secretstores.blabber in a directory until the test ends.
func (w *world) serveBlabber(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "blabber.sock"))
	if err != nil {
		t.Fatal(err)
	}
	w.plugin = &blabber{password: w.plant("value of a plugin")}
	server := grpc.NewServer()
	componentsv1pb.RegisterSecretStoreServer(server, w.plugin)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // it ends with Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
}

// fail returns an error with all that may be in one.
func (b *blabber) fail(code codes.Code) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.password + " " + strings.Join(slices.Collect(maps.Values(b.told)), " ")
	s, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: text}, &errdetails.DebugInfo{Detail: text, StackEntries: []string{text}})
	if err != nil {
		return err
	}
	return s.Err()
}

func (b *blabber) Init(ctx context.Context, in *componentsv1pb.SecretStoreInitRequest) (*componentsv1pb.SecretStoreInitResponse, error) {
	b.mu.Lock()
	b.told = in.GetMetadata().GetProperties()
	b.mu.Unlock()
	if slices.Equal(metadata.ValueFromIncomingContext(ctx, "x-component-instance"), []string{"blabs-early"}) {
		return nil, b.fail(codes.InvalidArgument)
	}
	return &componentsv1pb.SecretStoreInitResponse{}, nil
}

func (b *blabber) Features(context.Context, *componentsv1pb.FeaturesRequest) (*componentsv1pb.FeaturesResponse, error) {
	return &componentsv1pb.FeaturesResponse{Features: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}}, nil
}

// Get answers with an error if its code is the name, and otherwise with the secret.
func (b *blabber) Get(ctx context.Context, in *componentsv1pb.GetSecretRequest) (*componentsv1pb.GetSecretResponse, error) {
	if n, ok := strings.CutPrefix(in.GetKey(), "code "); ok {
		code, err := strconv.ParseUint(n, 10, 8)
		if err != nil {
			return nil, err
		}
		err = b.fail(codes.Code(code))
		return nil, errors.Join(err, grpc.SetTrailer(ctx, metadata.Pairs("blab", err.Error())))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.GetKey() == "hostile" {
		return &componentsv1pb.GetSecretResponse{Data: map[string]string{"../../etc/passwd": b.password}}, nil
	}
	return &componentsv1pb.GetSecretResponse{Data: map[string]string{"password": b.password}}, nil
}

func (b *blabber) BulkGet(context.Context, *componentsv1pb.BulkGetSecretRequest) (*componentsv1pb.BulkGetSecretResponse, error) {
	return nil, b.fail(codes.Unknown)
}

func (b *blabber) set(password string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.password = password
}

// testPlugin reads the plugin's stores by the API and in a volume.
func (w *world) testPlugin(t *testing.T) {
	token, value := string(w.planted["API token"]), string(w.planted["value of a plugin"])
	w.contains(t, w.get("/v1.0/secrets/blabs/db", token), value) // the control
	w.plugin.mu.Lock()
	if got := w.plugin.told["setting"]; got != string(w.planted["setting of a plugin"]) {
		t.Error("the plugin was not told its setting")
	}
	w.plugin.mu.Unlock()
	answers := func(code codes.Code) {
		w.expect(t, w.get(fmt.Sprint("/v1.0/secrets/blabs/code%20", int(code)), token), "plugin answers Get with "+code.String())
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if code != codes.ResourceExhausted { // after which a store is left alone
			answers(code)
			w.contains(t, w.get(fmt.Sprint("/v1.0/secrets/blabs/good%20", int(code)), token), value) // so that it stays in use
		}
	}
	defer answers(codes.ResourceExhausted)
	w.expect(t, w.get("/v1.0/secrets/blabs/bulk", token), "ERR_SECRET_GET")
	w.expect(t, w.get("/v1.0/secrets/blabs-early/db", token), "STORE_CLOSED")
	w.expect(t, w.get("/v1.0/metadata", token), "plugin answers Init with InvalidArgument")
	if !w.volumes {
		return
	}
	volume := func(secret string) map[string]string {
		return map[string]string{"store": "blabs", "secrets": secret, "refreshInterval": "1s"}
	}
	if err := w.publish(t, "plugin", volume("db")); err != nil {
		t.Fatal(err)
	}
	w.contains(t, string(w.read("v/plugin/db/password")), value) // the control
	for i, v := range []struct{ secret, want string }{
		{fmt.Sprint("code ", int(codes.PermissionDenied)), "PermissionDenied"}, {fmt.Sprint("code ", int(codes.Unknown)), "Unavailable"}, {"hostile", `starts with ".."`},
	} {
		err := w.publish(t, fmt.Sprint("plugin-", i), volume(v.secret))
		w.expect(t, fmt.Sprintf("%v %+v", err, err), v.want)
	}
	w.testDaprd(t)
	rotated := w.plant("rotated value of a plugin")
	w.plugin.set(rotated)
	w.Until("the volume has the plugin's new value", func() bool { return string(w.read("v/plugin/db/password")) == rotated })
}

// testDaprd reads as a daprd does, by the socket in a volume.
func (w *world) testDaprd(t *testing.T) {
	if err := w.publish(t, "daprd", map[string]string{"api": "dapr-plugin"}); err != nil {
		t.Fatal(err)
	}
	daprd := componentsv1pb.NewSecretStoreClient(w.dial(t, "v/daprd/dapr-components/keywell.sock"))
	get := func(component, secret string) string {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-component-instance", component)
		answer, err := daprd.Get(ctx, &componentsv1pb.GetSecretRequest{Key: secret})
		return fmt.Sprintf("%v %v %+v", answer.GetData(), err, err)
	}
	w.contains(t, get("file", "db"), string(w.planted["value of a file"])) // the control
	w.expect(t, get("file", "internal"), "PermissionDenied")
	w.expect(t, get("setting", "db"), "InvalidArgument")
	w.expect(t, get("blabs", fmt.Sprint("code ", int(codes.Internal))), "plugin answers Get with Internal")
}
