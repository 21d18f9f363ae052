package volume

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// Authorizer decides whether an identity may read a ref; *scope.Live is one.
type Authorizer interface {
	Authorize(scope.Identity, scope.Ref) (scope.Grant, error)
}

// Resolver reads what a grant allows; *resolve.Resolver is one.
type Resolver interface {
	Resolve(context.Context, resolve.Request) (resolve.Result, error)
}

// Denial is a read that the policy refused.
type Denial struct {
	VolumeID string
	Identity scope.Identity
	Ref      scope.Ref
	Origin   string // "volume" or "rotation", as in resolve.Request
	Err      error  // scope.ErrStoreNotFound or a *scope.DeniedError, which knows the rule
}

// Options configure a Set.
type Options struct {
	Authorizer Authorizer
	Resolver   Resolver
	Mounter    Mounter
	// StateDir is where records are kept, best on a tmpfs of the host: they describe mounts, which end with a reboot.
	StateDir   string
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
	// Denied is called for each read that the policy refuses, for the audit trail. Nil: nobody is told.
	Denied func(context.Context, Denial)

	MaxVolumeBytes int64 // limit for one volume's files, in bytes; default 16 MiB
	MaxNodeBytes   int64 // limit for all volumes' files, in bytes; default 256 MiB

	// Published is called when a volume was published or found again, with the time of its next rotation.
	Published func(id string, due time.Time)
	// Unpublished is called when a volume is gone.
	Unpublished func(id string)
	// Checkpoint is called between the steps of publish, swap and unpublish, so that a test can end the process there.
	Checkpoint func(step string)
}

// Set is the volumes of this node. It is safe for concurrent use: calls for one volume ID take turns, calls for
// different ones do not wait for each other.
type Set struct{ opts Options }

// Request asks for a volume.
type Request struct {
	VolumeID   string
	TargetPath string // absolute, below one of the mounter's roots; its parent exists
	Identity   scope.Identity
	Attributes map[string]string     // volume attributes; see ParseSpec
	MountGroup string                // group ID for the files, in decimal; empty: none (CSI volume_mount_group)
	MountFlags []string              // only context=… (SELinux) is accepted
	Tokens     providers.TokenSource // the pod's own tokens; nil: none. Kept for rotations until the next Publish
}

// Outcome is what a rotation did.
type Outcome struct {
	Changed bool      // the files were replaced
	Next    time.Time // when to rotate again; set even if Rotate fails
}

// Stats says how full a volume is and how it is doing.
type Stats struct {
	UsedBytes, TotalBytes   int64
	UsedInodes, TotalInodes int64
	Condition               Condition
}

// Condition says whether somebody should look at a volume. The zero Condition is healthy.
type Condition struct {
	Abnormal bool
	Message  string // for people; empty unless Abnormal
}

// New returns a Set without volumes; Recover finds those of an earlier process.
func New(opts Options) (*Set, error) { return &Set{opts: opts}, nil }

// Publish makes the volume's files visible at its target path.
func (s *Set) Publish(ctx context.Context, req Request) error { return errors.ErrUnsupported }

// Unpublish removes a volume.
func (s *Set) Unpublish(ctx context.Context, id, target string) error { return errors.ErrUnsupported }

// Rotate reads a volume's secrets again and replaces its files if any of them changed.
func (s *Set) Rotate(ctx context.Context, id string) (Outcome, error) {
	return Outcome{}, errors.ErrUnsupported
}

// Stats returns how full a volume is. path is its target path; empty stands for that.
func (s *Set) Stats(id, path string) (Stats, error) { return Stats{}, errors.ErrUnsupported }

// Using returns the IDs of the published volumes that read a secret of store, sorted; an empty name stands for any.
func (s *Set) Using(store, name string) []string { return nil }

// IDs returns the IDs of the published volumes, sorted.
func (s *Set) IDs() []string { return nil }

// Recover finds the volumes of an earlier process again.
func (s *Set) Recover(ctx context.Context) error { return errors.ErrUnsupported }
