package csi

import (
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keywell/keywell/pkg/volume"
)

// A volume's condition is told twice. Kubelets from Kubernetes 1.37 ask for NodeGetVolumeHealth. Older ones read the
// field volume_condition of NodeGetVolumeStats, if the driver has the capability VOLUME_CONDITION; both were removed in
// CSI 1.13, whose Go package has no names for them. Their numbers are reserved, so that sending them harms nobody.
// Source: csi.proto of CSI 1.12.
const (
	volumeCondition = csipb.NodeServiceCapability_RPC_Type(4) // VOLUME_CONDITION

	conditionField protowire.Number = 2 // NodeGetVolumeStatsResponse.volume_condition
	abnormalField  protowire.Number = 1 // VolumeCondition.abnormal
	messageField   protowire.Number = 2 // VolumeCondition.message
)

// addCondition adds the field volume_condition to resp.
func addCondition(resp *csipb.NodeGetVolumeStatsResponse, c volume.Condition) {
	var condition []byte
	condition = protowire.AppendTag(condition, abnormalField, protowire.VarintType)
	condition = protowire.AppendVarint(condition, protowire.EncodeBool(c.Abnormal))
	condition = protowire.AppendTag(condition, messageField, protowire.BytesType)
	condition = protowire.AppendString(condition, text(c.Message))

	field := protowire.AppendTag(nil, conditionField, protowire.BytesType)
	resp.ProtoReflect().SetUnknown(protowire.AppendBytes(field, condition))
}

// health is the condition as NodeGetVolumeHealth tells it. The files of an abnormal volume are there, only not up to
// date, so that it is degraded at worst.
func health(id string, c volume.Condition) *csipb.VolumeHealth {
	h := &csipb.VolumeHealth{VolumeId: id}
	if c.Abnormal {
		h.HealthStatuses = []*csipb.VolumeHealth_VolumeHealthEntry{{
			Status: csipb.VolumeHealthErrorType_DEGRADED, Reason: "NotUpToDate", Message: text(c.Message),
		}}
	}
	return h
}

// text makes s what a protobuf message can hold: a store's words may not be UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "�") }
