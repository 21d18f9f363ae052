package csi

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

const (
	// publishTimeout is shorter than the two minutes after which the kubelet gives a call up, so that the pod's event
	// says what was waited for and not just that time ran out. Source: Kubernetes, pkg/volume/csi, csiTimeout.
	publishTimeout = 100 * time.Second

	// kubeletPrefix begins the keys of the volume context that the kubelet writes; the others are the pod author's.
	kubeletPrefix = "csi.storage.k8s.io/"
	// ephemeralKey is "true" in the volume context of an inline volume of a pod, "false" for a persistent one.
	ephemeralKey = kubeletPrefix + "ephemeral"
)

// NodeGetInfo returns the node's ID. There is no limit on volumes and no topology.
func (s *Server) NodeGetInfo(context.Context, *csipb.NodeGetInfoRequest) (*csipb.NodeGetInfoResponse, error) {
	return &csipb.NodeGetInfoResponse{NodeId: s.opts.NodeID}, nil
}

// NodeGetCapabilities returns what the Node service does beside publishing.
func (s *Server) NodeGetCapabilities(context.Context, *csipb.NodeGetCapabilitiesRequest) (*csipb.NodeGetCapabilitiesResponse, error) {
	resp := &csipb.NodeGetCapabilitiesResponse{}
	for _, t := range []csipb.NodeServiceCapability_RPC_Type{
		csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csipb.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		volumeCondition,
		csipb.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
	} {
		resp.Capabilities = append(resp.Capabilities, &csipb.NodeServiceCapability{
			Type: &csipb.NodeServiceCapability_Rpc{Rpc: &csipb.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// NodePublishVolume makes a volume's files visible at the target path, which the kubelet makes up and which holds the
// pod's UID. Nobody can know that when writing the pod's attributes, so an identity that is forged there, where the
// CSIDriver lacks podInfoOnMount, does not pass. The kubelet repeats it, for a CSIDriver with
// requiresRepublish, to bring fresh tokens; a volume that is as it should be is left alone then.
func (s *Server) NodePublishVolume(ctx context.Context, req *csipb.NodePublishVolumeRequest) (*csipb.NodePublishVolumeResponse, error) {
	if err := validatePublish(req); err != nil {
		return nil, err
	}
	id, err := s.opts.Identify(req.GetVolumeContext())
	if err != nil {
		return nil, invalidRequest(err.Error())
	}
	if id.PodUID != "" && !strings.Contains(req.GetTargetPath(), "/"+id.PodUID+"/") {
		return nil, invalidRequest("the target path is not the pod's own: set podInfoOnMount: true in the CSIDriver object")
	}
	tokens, err := identity.ParseTokens(req.GetSecrets(), req.GetVolumeContext())
	if err != nil {
		return nil, invalidRequest(err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	err = s.opts.Volumes.Publish(ctx, volume.Request{
		VolumeID:   req.GetVolumeId(),
		TargetPath: req.GetTargetPath(),
		Identity:   id,
		Attributes: attributes(req.GetVolumeContext()),
		MountGroup: req.GetVolumeCapability().GetMount().GetVolumeMountGroup(),
		MountFlags: req.GetVolumeCapability().GetMount().GetMountFlags(),
		Tokens:     tokens,
	})
	if errors.Is(err, scope.ErrStoreNotFound) && s.opts.Ready() != nil {
		return nil, errStarting
	}
	if err != nil {
		return nil, err
	}
	return &csipb.NodePublishVolumeResponse{}, nil
}

// attributes returns what the pod's author wrote. The kubelet's part ends here, since tokens may be in it.
func attributes(volumeContext map[string]string) map[string]string {
	own := maps.Clone(volumeContext)
	maps.DeleteFunc(own, func(key, _ string) bool { return strings.HasPrefix(key, kubeletPrefix) })
	return own
}

// validatePublish refuses what no volume of this driver can be. What is wrong inside the attributes, the mount flags
// and the mount group is for package volume to say.
func validatePublish(req *csipb.NodePublishVolumeRequest) error {
	capability := req.GetVolumeCapability()
	ephemeral, said := req.GetVolumeContext()[ephemeralKey]
	switch {
	case req.GetVolumeId() == "":
		return invalidRequest("the volume ID is missing")
	case req.GetTargetPath() == "":
		return invalidRequest("the target path is missing")
	case !filepath.IsAbs(req.GetTargetPath()) || filepath.Clean(req.GetTargetPath()) != req.GetTargetPath():
		return invalidRequest("the target path is not an absolute path in its shortest form")
	case capability == nil:
		return invalidRequest("the volume capability is missing")
	case capability.GetBlock() != nil:
		return invalidRequest("a volume of secrets can be mounted only, not attached as a block device")
	case capability.GetMount() == nil:
		return invalidRequest("the volume capability has no access type")
	case capability.GetMount().GetFsType() != "":
		return invalidRequest("a volume of secrets is always tmpfs: remove fsType")
	case !onOneNode(capability.GetAccessMode().GetMode()):
		return invalidRequest("an ephemeral volume is for one node: the access mode has to be SINGLE_NODE_WRITER or SINGLE_NODE_READER_ONLY")
	case !req.GetReadonly():
		return invalidRequest("a volume of secrets is read-only: set readOnly: true beside the driver's name in the pod's volume")
	case said && ephemeral != "true":
		return invalidRequest("only ephemeral volumes are served: declare the volume inline in the pod instead of through a PersistentVolume")
	}
	return nil
}

func onOneNode(mode csipb.VolumeCapability_AccessMode_Mode) bool {
	return mode == csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER ||
		mode == csipb.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}

// NodeUnpublishVolume removes a volume, or what is left of it; nothing is fine too.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csipb.NodeUnpublishVolumeRequest) (*csipb.NodeUnpublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalidRequest("the volume ID is missing")
	case req.GetTargetPath() == "":
		return nil, invalidRequest("the target path is missing")
	}
	if err := s.opts.Volumes.Unpublish(ctx, req.GetVolumeId(), req.GetTargetPath()); err != nil {
		return nil, err
	}
	return &csipb.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats returns how full a volume is and, for older kubelets, its condition. The kubelet asks about once a
// minute per volume.
func (s *Server) NodeGetVolumeStats(_ context.Context, req *csipb.NodeGetVolumeStatsRequest) (*csipb.NodeGetVolumeStatsResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalidRequest("the volume ID is missing")
	case req.GetVolumePath() == "":
		return nil, invalidRequest("the volume path is missing")
	}
	stats, err := s.opts.Volumes.Stats(req.GetVolumeId(), req.GetVolumePath())
	if err != nil {
		return nil, err
	}
	resp := &csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{
		usage(csipb.VolumeUsage_BYTES, stats.UsedBytes, stats.TotalBytes),
		usage(csipb.VolumeUsage_INODES, stats.UsedInodes, stats.TotalInodes),
	}}
	addCondition(resp, stats.Condition)
	return resp, nil
}

func usage(unit csipb.VolumeUsage_Unit, used, total int64) *csipb.VolumeUsage {
	return &csipb.VolumeUsage{Unit: unit, Used: used, Total: total, Available: max(total-used, 0)}
}

// NodeGetVolumeHealth tells whether a volume's files are kept up to date.
func (s *Server) NodeGetVolumeHealth(_ context.Context, req *csipb.NodeGetVolumeHealthRequest) (*csipb.NodeGetVolumeHealthResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalidRequest("the volume ID is missing")
	}
	stats, err := s.opts.Volumes.Stats(req.GetVolumeId(), req.GetVolumePublishPath())
	if err != nil {
		return nil, err
	}
	return &csipb.NodeGetVolumeHealthResponse{VolumeHealth: health(req.GetVolumeId(), stats.Condition)}, nil
}
