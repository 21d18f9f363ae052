package csi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

const canary = "c4n4ry"

func TestErrors(t *testing.T) {
	ref := scope.Ref{Store: "vault", Name: "db"}
	store := func(kind providers.Kind) error {
		return &providers.Error{Store: "vault", Name: "db", Kind: kind, Err: errors.New("that is why")}
	}
	tests := []struct {
		name string
		err  error
		want codes.Code
		text string
	}{
		{"attributes", &volume.InvalidError{Problems: []string{"size is no quantity", "mode is not octal"}}, codes.InvalidArgument, "size is no quantity; mode is not octal"},
		{"target", mount.ErrBadTarget, codes.InvalidArgument, "target path"},
		{"occupied", mount.ErrOccupied, codes.FailedPrecondition, "mounted"},
		{"conflict", volume.ErrConflict, codes.AlreadyExists, "conflicts"},
		{"too large", volume.ErrTooLarge, codes.ResourceExhausted, "too large"},
		{"unpublished meanwhile", errors.Join(context.Canceled, volume.ErrUnpublished), codes.Aborted, "being unpublished"},
		{"denied", &scope.DeniedError{Ref: ref, Rule: `policy.yaml:7: deny "db*"`}, codes.PermissionDenied,
			`access denied by policy to get "db" from "vault": policy.yaml:7: deny "db*"; ask for`},
		{"no store", fmt.Errorf("item 1: %w", scope.ErrStoreNotFound), codes.PermissionDenied, "item 1: store not found: no store of that name serves this pod"},
		{"closed store", resolve.ErrStoreClosed, codes.Unavailable, "not open"},
		{"missing", store(providers.NotFound), codes.NotFound, `secret "db" of store "vault": that is why`},
		{"denied by the store", store(providers.Denied), codes.PermissionDenied, "that is why"},
		{"invalid for the store", store(providers.Invalid), codes.InvalidArgument, "that is why"},
		{"store down", store(providers.Unavailable), codes.Unavailable, "that is why"},
		{"store busy", store(providers.Throttled), codes.ResourceExhausted, "that is why"},
		{"store failed somehow", store(providers.Unknown), codes.Unavailable, "that is why"},
		{"two items", errors.Join(store(providers.NotFound), store(providers.NotFound)), codes.NotFound, "that is why; secret"},
		{"late", fmt.Errorf("resolve: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "deadline"},
		{"words that are not text", &volume.InvalidError{Problems: []string{"store \"a\xffb\""}}, codes.InvalidArgument, `store "a�b"`},
		{"cancelled", context.Canceled, codes.Canceled, "canceled"},
		{"anything else", errors.New("write /run/x: " + canary), codes.Internal, "see the agent's log"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, nil)
			p.volumes.publish = func(context.Context, volume.Request) error { return test.err }
			_, err := p.NodePublishVolume(t.Context(), publishRequest())
			refused(t, err, test.want, test.text)
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the pod's event shows the text of an internal error: %v", err)
			}
			if log := p.log.String(); !strings.Contains(log, `"level":"ERROR"`) || !strings.Contains(log, `"err":`) {
				t.Errorf("a publish that failed is not in the log: %s", log)
			}
		})
	}
}

func TestPanicEndsOneCall(t *testing.T) {
	p := start(t, nil)
	for name, throw := range map[string]func(){
		"string":  func() { panic(canary) },
		"runtime": func() { var none []int; _ = none[len(canary)] },
	} {
		p.volumes.publish = func(context.Context, volume.Request) error { throw(); return nil }
		_, err := p.NodePublishVolume(t.Context(), publishRequest())
		refused(t, err, codes.Unavailable, "see the agent's log")
		if log := p.log.String(); !strings.Contains(log, "NodePublishVolume") || !strings.Contains(log, "TestPanicEndsOneCall") {
			t.Errorf("%s: the log does not say where: %s", name, log)
		}
	}
	if log := p.log.String(); strings.Contains(log, canary) || !strings.Contains(log, "index out of range") {
		t.Errorf("the log shows what was thrown, or hides what the runtime said: %s", log)
	}
	p.volumes.publish = nil
	if _, err := p.NodePublishVolume(t.Context(), publishRequest()); err != nil {
		t.Errorf("the server is broken: %v", err)
	}
}

// TestLog asserts one line per call, with who asked and without anything else of the request.
func TestLog(t *testing.T) {
	p := start(t, nil)
	req := publishRequest(func(r *csipb.NodePublishVolumeRequest) {
		r.VolumeContext["secrets"] = canary
		r.VolumeContext[identity.KubeletTokensKey] = `{"` + canary + `":{"token":"` + canary + `","expirationTimestamp":"2999-01-01T00:00:00Z"}}`
		r.Secrets = map[string]string{canary: canary}
		r.PublishContext = map[string]string{canary: canary}
	})
	bad := publishRequest(func(r *csipb.NodePublishVolumeRequest) {
		r.VolumeContext[identity.KubeletTokensKey] = canary
	})
	if _, err := p.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err := p.NodePublishVolume(t.Context(), bad)
	refused(t, err, codes.InvalidArgument, "")
	if _, err := p.NodeGetInfo(t.Context(), &csipb.NodeGetInfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(p.log.String(), canary) || strings.Contains(err.Error(), canary) {
		t.Errorf("leaked: %v\n%s", err, p.log)
	}
	publish := map[string]any{
		"msg": "csi call", "method": "NodePublishVolume", "volume_id": "csi-1", "target_path": target,
		"namespace": "shop", "pod": "web-0", "service_account": "web", "level": "DEBUG", "code": "OK",
	}
	failed := map[string]any{
		"msg": "csi call", "method": "NodePublishVolume", "volume_id": "csi-1", "target_path": target,
		"namespace": "shop", "pod": "web-0", "service_account": "web", "level": "ERROR", "code": "InvalidArgument",
	}
	want := []map[string]any{publish, failed, {"msg": "csi call", "method": "NodeGetInfo", "level": "DEBUG", "code": "OK"}}
	var got []map[string]any
	for line := range strings.Lines(p.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		for _, varying := range []string{"time", "duration", "err"} {
			delete(entry, varying)
		}
		got = append(got, entry)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestMetrics(t *testing.T) {
	p := start(t, nil)
	for range 2 {
		if _, err := p.NodePublishVolume(t.Context(), publishRequest()); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.NodePublishVolume(t.Context(), &csipb.NodePublishVolumeRequest{})
	refused(t, err, codes.InvalidArgument, "")
	if err := testutil.GatherAndCompare(p.registry, strings.NewReader(`
		# HELP keywell_csi_requests_total CSI calls answered, by method and gRPC code.
		# TYPE keywell_csi_requests_total counter
		keywell_csi_requests_total{code="InvalidArgument",method="NodePublishVolume"} 1
		keywell_csi_requests_total{code="OK",method="NodePublishVolume"} 2
	`), "keywell_csi_requests_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(p.registry, "keywell_csi_request_seconds"); err != nil || n != 1 {
		t.Errorf("%d series of keywell_csi_request_seconds, error %v", n, err)
	}
}

func TestIdentityService(t *testing.T) {
	var ready error
	p := start(t, func(o *csi.Options) { o.Ready = func() error { return ready } })
	info, err := p.GetPluginInfo(t.Context(), &csipb.GetPluginInfoRequest{})
	if err != nil || info.GetName() != csi.DefaultName || info.GetVendorVersion() != "v1.2.3" {
		t.Errorf("%v, error %v", info, err)
	}
	capabilities, err := p.GetPluginCapabilities(t.Context(), &csipb.GetPluginCapabilitiesRequest{})
	if err != nil || len(capabilities.GetCapabilities()) != 0 {
		t.Errorf("%v, error %v", capabilities, err)
	}
	for _, ready = range []error{nil, errors.New("no store is open yet"), nil} {
		probe, err := p.Probe(t.Context(), &csipb.ProbeRequest{})
		if err != nil || probe.GetReady() == nil || probe.GetReady().GetValue() != (ready == nil) {
			t.Errorf("Ready says %v: %v, error %v", ready, probe, err)
		}
	}
}

func TestNew(t *testing.T) {
	whole := csi.Options{Version: "v1", NodeID: "n", Volumes: &volumes{}, Identify: identity.FromVolumeContext}
	if _, err := csi.New(whole); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*csi.Options){
		"Version":  func(o *csi.Options) { o.Version = "" },
		"NodeID":   func(o *csi.Options) { o.NodeID = "" },
		"Volumes":  func(o *csi.Options) { o.Volumes = nil },
		"Identify": func(o *csi.Options) { o.Identify = nil },
	} {
		opts := whole
		change(&opts)
		if _, err := csi.New(opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// TestServeStops runs in a bubble, on a listener in memory, to see how long a call may hold up the end.
func TestServeStops(t *testing.T) {
	tests := []struct {
		name string
		call time.Duration // how long a call that is under way still takes
		want codes.Code
		stop time.Duration // how long Serve then takes
	}{
		{"a call finishes", 5 * time.Second, codes.OK, 5 * time.Second},
		{"a call hangs", time.Hour, codes.Unavailable, 10 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &volumes{publish: func(ctx context.Context, _ volume.Request) error {
					select {
					case <-time.After(test.call):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}}
				server, err := csi.New(csi.Options{Version: "v1", NodeID: "n", Volumes: v, Identify: identity.FromVolumeContext})
				if err != nil {
					t.Fatal(err)
				}
				l := bufconn.Listen(1 << 16)
				conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()

				ctx, cancel := context.WithCancel(t.Context())
				served, called := make(chan error, 1), make(chan error, 1)
				go func() { served <- server.Serve(ctx, &csi.Listener{Listener: l}) }()
				go func() {
					_, err := csipb.NewNodeClient(conn).NodePublishVolume(t.Context(), publishRequest())
					called <- err
				}()
				synctest.Wait()
				cancel()
				start := time.Now()
				if err := <-served; err != nil {
					t.Errorf("Serve: %v", err)
				}
				if took := time.Since(start); took != test.stop {
					t.Errorf("Serve took %v to end, want %v", took, test.stop)
				}
				refused(t, <-called, test.want, "")
			})
		})
	}
}
