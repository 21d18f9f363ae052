package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume/mount"
)

// Authorizer decides whether an identity may read a ref; *scope.Live is one.
type Authorizer interface {
	Authorize(scope.Identity, scope.Ref) (scope.Grant, error)
}

// Resolver reads what a grant allows; *resolve.Resolver is one.
type Resolver interface {
	Resolve(context.Context, resolve.Request) (resolve.Result, error)
	// Cached returns what Resolve would, if that is at hand.
	Cached(context.Context, resolve.Request) (resolve.Result, bool)
}

// Leases keeps what stores issue; *resolve.Resolver does.
type Leases interface {
	// Adopt tells what was issued for a read by an earlier process. NotFound: it does not live any more.
	Adopt(ctx context.Context, req resolve.Request, p providers.Payload, issued time.Time) error
	// Release tells that nobody needs any more what was issued for a read. It does not block.
	Release(req resolve.Request)
	// Shared tells whether two reads are answered with the same.
	Shared(a, b resolve.Request) bool
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
	Leases     Leases // nil: nothing is adopted or released
	Mounter    Mounter
	// StateDir is where records are kept, best on a tmpfs of the host: they describe mounts, which end with a reboot.
	StateDir   string
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
	// Serve answers calls on the sockets of a volume, which it takes over, as calls of the pod that it is for. What it
	// returns ends that, and closes the sockets and all connections. Nil: a volume that asks for sockets is refused.
	Serve func(id scope.Identity, sockets Sockets) (stop func())
	// Localhost says that pods can have listeners in their network namespaces. False: a volume that asks for them is
	// refused.
	Localhost bool
	// Classes says that SecretProviderClasses are stores, see ClassStore. False: a volume that asks for one is refused.
	Classes bool
	// Tokens returns tokens of a volume's pod for a volume that an earlier process has left, until the kubelet brings some.
	// Nil, and a nil TokenSource: there are none, and what needs them waits.
	Tokens func(scope.Identity) providers.TokenSource
	// Denied is called for each read that the policy refuses, for the audit trail. Nil: nobody is told.
	Denied func(context.Context, Denial)

	MaxVolumeBytes int64 // limit for one volume's files, in bytes; default 16 MiB
	MaxNodeBytes   int64 // limit for all volumes' files, in bytes; default 256 MiB

	// Published is called when a volume was published, found or repaired, with the time of its next rotation.
	Published func(id string, due time.Time)
	// Unpublished is called when a volume is gone.
	Unpublished func(id string)
	// Checkpoint is called between the steps of publish, swap and unpublish, so that a test can end the process there.
	Checkpoint func(step string)
}

// Set is the volumes of this node. It is safe for concurrent use: calls for one volume ID take turns, calls for
// different ones do not wait for each other. The hooks in Options must not wait for a call of the Set.
type Set struct {
	opts    Options
	records *journal
	metrics metrics

	mu      sync.Mutex
	volumes map[string]*volume // volume ID → published, or being worked on
	targets map[string]string  // target path → volume ID that has it, or is about to
	size    int64              // of all volumes' files, in bytes, those being written included
}

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
	Identity scope.Identity // whose volume it is
	Changed  bool           // the files were replaced
	Stale    string         // says which secret its store could not confirm, and since when; empty: none
	Next     time.Time      // when to rotate again; set even if Rotate fails
}

// Stats says how full a volume's tmpfs is and how the volume is doing. The tmpfs has room for two generations of files.
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

// New returns a Set without volumes, and creates its state directory. Recover finds the volumes of an earlier process;
// it is called before anything else.
func New(opts Options) (*Set, error) {
	if opts.Authorizer == nil || opts.Resolver == nil || opts.Mounter == nil || opts.StateDir == "" {
		return nil, errors.New("volumes need an Authorizer, a Resolver, a Mounter and a StateDir")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Denied == nil {
		opts.Denied = func(context.Context, Denial) {}
	}
	if opts.Tokens == nil {
		opts.Tokens = func(scope.Identity) providers.TokenSource { return nil }
	}
	if opts.Published == nil {
		opts.Published = func(string, time.Time) {}
	}
	if opts.Unpublished == nil {
		opts.Unpublished = func(string) {}
	}
	if opts.Checkpoint == nil {
		opts.Checkpoint = func(string) {}
	}
	if opts.MaxVolumeBytes <= 0 {
		opts.MaxVolumeBytes = 16 << 20
	}
	if opts.MaxNodeBytes <= 0 {
		opts.MaxNodeBytes = 256 << 20
	}
	records, err := newJournal(opts.StateDir)
	if err != nil {
		return nil, err
	}
	s := &Set{opts: opts, records: records, volumes: map[string]*volume{}, targets: map[string]string{}}
	s.instrument(opts.Registerer)
	return s, nil
}

// IDs returns the IDs of the published volumes, sorted. Whoever asks is taken to rotate them, because something has
// changed: a volume that is being published, and may have missed the change, is due as soon as it is published.
func (s *Set) IDs() []string {
	return s.idsWhere(func(*volume) bool { return true })
}

// Using returns the IDs of the published volumes that read a secret of store, sorted; an empty name stands for any. As
// with IDs, a volume that is being published and reads the secret is due as soon as it is published.
func (s *Set) Using(store, name string) []string {
	return s.idsWhere(func(v *volume) bool {
		return slices.ContainsFunc(v.spec.Items, func(it Item) bool {
			return it.reads(store, name)
		})
	})
}

func (s *Set) idsWhere(match func(*volume) bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, v := range s.volumes {
		switch {
		case !match(v):
		case v.published:
			ids = append(ids, id)
		default:
			v.missed = true
		}
	}
	slices.Sort(ids)
	return ids
}

// Stats returns how full a volume is. path is its target path; empty stands for that. The error is ErrNotPublished, or
// says why the volume can't be looked at; a volume whose mount is gone, or under another one, is abnormal, not an error.
func (s *Set) Stats(id, path string) (Stats, error) {
	s.mu.Lock()
	v, ok := s.volumes[id]
	if !ok || !v.published || (path != "" && path != v.record.Target) {
		s.mu.Unlock()
		return Stats{}, ErrNotPublished
	}
	target, device, condition := v.record.Target, v.record.Device, v.condition
	s.mu.Unlock()

	dir, info, err := s.opts.Mounter.Open(target)
	if errors.Is(err, mount.ErrNotMounted) || errors.Is(err, mount.ErrOccupied) {
		return Stats{Condition: Condition{Abnormal: true, Message: fmt.Sprintf("the volume is not in its place: %v", err)}}, nil
	}
	if err != nil {
		return Stats{}, err
	}
	if info.Device != device {
		condition = Condition{Abnormal: true, Message: fmt.Sprintf("the volume is not in its place: %v", mount.ErrOccupied)}
	}
	return Stats{
		UsedBytes: info.UsedBytes, TotalBytes: info.TotalBytes,
		UsedInodes: info.UsedInodes, TotalInodes: info.TotalInodes,
		Condition: condition,
	}, dir.Close()
}
