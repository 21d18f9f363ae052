package csi_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

// refused fails the test unless err has the code, and a message of one line with the text.
func refused(t *testing.T, err error, want codes.Code, text string) {
	t.Helper()
	s, _ := status.FromError(err)
	if s.Code() != want || !strings.Contains(s.Message(), text) || strings.Contains(s.Message(), "\n") {
		t.Errorf("%v: %q, want %v and one line with %q", s.Code(), s.Message(), want, text)
	}
}

func TestPublishRefuses(t *testing.T) {
	type request = csipb.NodePublishVolumeRequest
	mode := func(m csipb.VolumeCapability_AccessMode_Mode) func(*request) {
		return func(r *request) { r.VolumeCapability.AccessMode.Mode = m }
	}
	tests := []struct {
		name   string
		change func(*request)
		text   string
	}{
		{"no volume id", func(r *request) { r.VolumeId = "" }, "volume ID is missing"},
		{"no target", func(r *request) { r.TargetPath = "" }, "target path is missing"},
		{"relative target", func(r *request) { r.TargetPath = "pods/mount" }, "absolute"},
		{"target that climbs", func(r *request) { r.TargetPath = target + "/../../mount" }, "shortest form"},
		{"target with a slash at its end", func(r *request) { r.TargetPath = target + "/" }, "shortest form"},
		{"no capability", func(r *request) { r.VolumeCapability = nil }, "capability is missing"},
		{"block", func(r *request) {
			r.VolumeCapability.AccessType = &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}
		}, "block device"},
		{"no access type", func(r *request) { r.VolumeCapability.AccessType = nil }, "no access type"},
		{"file system", func(r *request) { r.VolumeCapability.GetMount().FsType = "ext4" }, "fsType"},
		{"no access mode", func(r *request) { r.VolumeCapability.AccessMode = nil }, "access mode"},
		{"many readers", mode(csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), "access mode"},
		{"many writers", mode(csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), "access mode"},
		{"writable", func(r *request) { r.Readonly = false }, "readOnly: true"},
		{"persistent", func(r *request) { r.VolumeContext["csi.storage.k8s.io/ephemeral"] = "false" }, "PersistentVolume"},
		{"no pod", func(r *request) { r.VolumeContext = map[string]string{"secrets": "db"} }, "podInfoOnMount"},
		{"half a pod", func(r *request) { delete(r.VolumeContext, "csi.storage.k8s.io/pod.uid") }, "pod.uid"},
		{"another pod's directory", func(r *request) { r.VolumeContext["csi.storage.k8s.io/pod.uid"] = "0f3d" }, "not the pod's own"},
		{"broken tokens", func(r *request) { r.Secrets = map[string]string{identity.KubeletTokensKey: "{"} }, "serviceAccount.tokens"},
	}
	p := start(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := p.NodePublishVolume(t.Context(), publishRequest(test.change))
			refused(t, err, codes.InvalidArgument, test.text)
		})
	}
	if len(p.volumes.published) != 0 {
		t.Errorf("published all the same: %v", p.volumes.published)
	}
}

func TestPublish(t *testing.T) {
	p := start(t, nil)
	var deadline time.Time
	p.volumes.publish = func(ctx context.Context, _ volume.Request) error {
		deadline, _ = ctx.Deadline()
		return nil
	}
	req := publishRequest(func(r *csipb.NodePublishVolumeRequest) {
		r.VolumeContext[identity.KubeletTokensKey] = `{"vault":{"token":"old","expirationTimestamp":"2999-01-01T00:00:00Z"}}`
		r.Secrets = map[string]string{identity.KubeletTokensKey: `{"vault":{"token":"new","expirationTimestamp":"2999-01-01T00:00:00Z"}}`}
	})
	for range 2 { // the kubelet repeats it
		if _, err := p.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if until := time.Until(deadline); deadline.IsZero() || until > 119*time.Second || until < time.Minute {
		t.Errorf("the call may take %v, want less than the kubelet's two minutes", until)
	}
	want := volume.Request{
		VolumeID:   "csi-1",
		TargetPath: target,
		Identity:   scope.Identity{Namespace: "shop", ServiceAccount: "web", Pod: "web-0", PodUID: "0f3c", AppID: "web-0"},
		Attributes: map[string]string{"secrets": "db"},
		MountGroup: "2000",
		MountFlags: []string{`context="system_u:object_r:container_file_t:s0"`},
	}
	if diff := cmp.Diff([]volume.Request{want, want}, p.volumes.published, cmpopts.IgnoreFields(volume.Request{}, "Tokens")); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	token, _, err := p.volumes.published[0].Tokens.Token(t.Context(), "vault")
	if err != nil || string(token.Reveal()) != "new" {
		t.Errorf("token %q, error %v; want the one in the secrets", token.Reveal(), err)
	}
}

// TestPublishWhileStarting tells a store that does not exist from one that is not known yet: the first is final.
func TestPublishWhileStarting(t *testing.T) {
	ready := errors.New("stores")
	p := start(t, func(o *csi.Options) { o.Ready = func() error { return ready } })
	p.volumes.publish = func(context.Context, volume.Request) error { return scope.ErrStoreNotFound }
	_, err := p.NodePublishVolume(t.Context(), publishRequest())
	refused(t, err, codes.Unavailable, "starting")
	ready = nil
	_, err = p.NodePublishVolume(t.Context(), publishRequest())
	refused(t, err, codes.PermissionDenied, "store not found")
	ready, p.volumes.publish = errors.New("stores"), nil
	if _, err = p.NodePublishVolume(t.Context(), publishRequest()); err != nil {
		t.Errorf("a volume that is in place needs no store: %v", err)
	}
}

func TestUnpublish(t *testing.T) {
	p := start(t, nil)
	for range 2 {
		if _, err := p.NodeUnpublishVolume(t.Context(), &csipb.NodeUnpublishVolumeRequest{VolumeId: "csi-1", TargetPath: target}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.NodeUnpublishVolume(t.Context(), &csipb.NodeUnpublishVolumeRequest{TargetPath: target})
	refused(t, err, codes.InvalidArgument, "volume ID is missing")
	_, err = p.NodeUnpublishVolume(t.Context(), &csipb.NodeUnpublishVolumeRequest{VolumeId: "csi-1"})
	refused(t, err, codes.InvalidArgument, "target path is missing")
	if diff := cmp.Diff([][2]string{{"csi-1", target}, {"csi-1", target}}, p.volumes.unpublished); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestStats(t *testing.T) {
	p := start(t, nil)
	p.volumes.stats = func() (volume.Stats, error) {
		return volume.Stats{UsedBytes: 4096, TotalBytes: 65536, UsedInodes: 9, TotalInodes: 8}, nil
	}
	got, err := p.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: "csi-1", VolumePath: target})
	if err != nil {
		t.Fatal(err)
	}
	want := &csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{
		{Unit: csipb.VolumeUsage_BYTES, Used: 4096, Total: 65536, Available: 61440},
		{Unit: csipb.VolumeUsage_INODES, Used: 9, Total: 8, Available: 0}, // never negative, says the specification
	}}
	want.ProtoReflect().SetUnknown([]byte("\x12\x04\x08\x00\x12\x00"))
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][2]string{{"csi-1", target}}, p.volumes.asked); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}

	_, err = p.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumePath: target})
	refused(t, err, codes.InvalidArgument, "volume ID is missing")
	_, err = p.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: "csi-1"})
	refused(t, err, codes.InvalidArgument, "volume path is missing")
	p.volumes.stats = func() (volume.Stats, error) { return volume.Stats{}, volume.ErrNotPublished }
	_, err = p.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: "csi-2", VolumePath: target})
	refused(t, err, codes.NotFound, "not published")
}

func TestHealth(t *testing.T) {
	p := start(t, nil)
	tests := []struct {
		name      string
		condition volume.Condition
		want      []*csipb.VolumeHealth_VolumeHealthEntry
		old       string // the message VolumeCondition of CSI 1.12: 08 is abnormal, 12 the length and text of message
	}{
		{name: "healthy", old: "\x08\x00\x12\x00"},
		{
			name:      "abnormal",
			condition: volume.Condition{Abnormal: true, Message: `store "vault" is down`},
			want: []*csipb.VolumeHealth_VolumeHealthEntry{
				{Status: csipb.VolumeHealthErrorType_DEGRADED, Reason: "NotUpToDate", Message: `store "vault" is down`},
			},
			old: "\x08\x01\x12\x15store \"vault\" is down",
		},
		{
			name:      "not text",
			condition: volume.Condition{Abnormal: true, Message: "a\xffb"},
			want: []*csipb.VolumeHealth_VolumeHealthEntry{
				{Status: csipb.VolumeHealthErrorType_DEGRADED, Reason: "NotUpToDate", Message: "a�b"},
			},
			old: "\x08\x01\x12\x05a�b",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p.volumes.stats = func() (volume.Stats, error) { return volume.Stats{Condition: test.condition}, nil }
			got, err := p.NodeGetVolumeHealth(t.Context(), &csipb.NodeGetVolumeHealthRequest{VolumeId: "csi-1"})
			if err != nil {
				t.Fatal(err)
			}
			want := &csipb.VolumeHealth{VolumeId: "csi-1", HealthStatuses: test.want}
			if diff := cmp.Diff(want, got.GetVolumeHealth(), protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			stats, err := p.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: "csi-1", VolumePath: target})
			if err != nil {
				t.Fatal(err)
			}
			old := "\x12" + string(rune(len(test.old))) + test.old
			if diff := cmp.Diff(old, string(stats.ProtoReflect().GetUnknown())); diff != "" {
				t.Errorf("field 2 of the stats (-want +got):\n%s", diff)
			}
		})
	}
	_, err := p.NodeGetVolumeHealth(t.Context(), &csipb.NodeGetVolumeHealthRequest{})
	refused(t, err, codes.InvalidArgument, "volume ID is missing")
	p.volumes.stats = func() (volume.Stats, error) { return volume.Stats{}, volume.ErrNotPublished }
	_, err = p.NodeGetVolumeHealth(t.Context(), &csipb.NodeGetVolumeHealthRequest{VolumeId: "csi-2"})
	refused(t, err, codes.NotFound, "not published")
}

func TestNodeInfo(t *testing.T) {
	p := start(t, nil)
	info, err := p.NodeGetInfo(t.Context(), &csipb.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "node-7" || info.GetMaxVolumesPerNode() != 0 || info.GetAccessibleTopology() != nil {
		t.Errorf("%v, error %v", info, err)
	}
	got, err := p.NodeGetCapabilities(t.Context(), &csipb.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, c := range got.GetCapabilities() {
		types = append(types, c.GetRpc().GetType().String())
	}
	if diff := cmp.Diff([]string{"GET_VOLUME_STATS", "GET_VOLUME_HEALTH", "4", "VOLUME_MOUNT_GROUP"}, types); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
	_, err = p.NodeStageVolume(t.Context(), &csipb.NodeStageVolumeRequest{})
	refused(t, err, codes.Unimplemented, "")
	_, err = p.NodeExpandVolume(t.Context(), &csipb.NodeExpandVolumeRequest{})
	refused(t, err, codes.Unimplemented, "")
}
