package volume

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/scope"
)

// record is what is kept of a volume so that another process can go on with it: what was asked for, and which tmpfs was
// made for it. It holds no value, no token and no digest.
type record struct {
	Version    int               `json:"version"`
	ID         string            `json:"id"`
	Target     string            `json:"target"`
	Identity   scope.Identity    `json:"identity"`
	Attributes map[string]string `json:"attributes"` // without those of the kubelet, one of which holds tokens
	MountGroup string            `json:"mountGroup,omitempty"`
	MountFlags []string          `json:"mountFlags,omitempty"`
	Created    time.Time         `json:"created"`
	Device     uint64            `json:"device,omitempty"` // of the tmpfs; see mount.Info; 0: it is being mounted
	Held       []held            `json:"held,omitempty"`   // what was issued for it
}

// recordVersion changes when an older agent would misread a record.
const recordVersion = 1

// recordOf returns the record of a volume that req asks for.
func recordOf(req Request) record {
	r := record{
		Version:    recordVersion,
		ID:         req.VolumeID,
		Target:     req.TargetPath,
		Identity:   req.Identity,
		Attributes: maps.Clone(req.Attributes),
		MountGroup: req.MountGroup,
		MountFlags: slices.Clone(req.MountFlags),
	}
	maps.DeleteFunc(r.Attributes, func(name, _ string) bool { return strings.HasPrefix(name, reservedPrefix) })
	return r
}

// asksFor tells whether r and other come from the same request. What annotations of the pod say is left out: they
// may change, or not be known yet when the agent has just started.
func (r record) asksFor(other record) bool {
	r.Identity.AppID, r.Identity.Configuration = other.Identity.AppID, other.Identity.Configuration
	return r.ID == other.ID && r.Target == other.Target && r.Identity == other.Identity &&
		maps.Equal(r.Attributes, other.Attributes) && r.MountGroup == other.MountGroup && slices.Equal(r.MountFlags, other.MountFlags)
}
