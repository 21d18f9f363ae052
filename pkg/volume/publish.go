package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// Publish makes the volume that req asks for visible at its target path, complete. On an error nothing of it is left.
//
// A volume that is published and in place costs no store call and no write: its tokens are kept for rotations, and that
// is all. This holds for a volume that the policy would not allow any more, too: the kubelet repeats its requests, and
// would treat a running pod as failing. A volume that has lost its mount is made again.
//
// The error is an *InvalidError, ErrConflict, ErrTooLarge, ErrUnpublished, mount.ErrOccupied (what is mounted on the
// target is not known to the Set, such as after its records were lost), one of package scope's, or the store's.
func (s *Set) Publish(ctx context.Context, req Request) error {
	begun := time.Now()
	want := recordOf(req)
	if s.inPlace(want, req.Tokens) {
		s.metrics.publishes.WithLabelValues("unchanged").Inc()
		return nil
	}
	err := s.publish(ctx, want, req.Tokens)
	s.metrics.published(begun, err)
	return err
}

// inPlace tells whether the volume is published and as it should be. It takes no turn, so that the kubelet does not
// wait for a rotation; if one replaces the files meanwhile, the answer is no, and is asked for again with the turn.
// A volume that had no tokens, after Recover, may have waited for them: it is rotated at once.
func (s *Set) inPlace(want record, tokens providers.TokenSource) bool {
	s.mu.Lock()
	v, ok := s.volumes[want.ID]
	if !ok || !v.published || !v.record.asksFor(want) {
		s.mu.Unlock()
		return false
	}
	waited := v.tokens == nil && tokens != nil
	v.tokens, v.appID, v.recovered = tokens, want.Identity.AppID, false
	device, data := v.record.Device, v.data
	s.mu.Unlock()

	dir, info, err := s.opts.Mounter.Open(want.Target)
	if err != nil {
		return false
	}
	defer dir.Close()
	link, err := readLink(dir.Fd(), dataLink)
	if err != nil || info.Device != device || link != data {
		return false
	}
	if waited {
		s.opts.Published(want.ID, time.Now())
	}
	return true
}

func (s *Set) publish(ctx context.Context, want record, tokens providers.TokenSource) error {
	spec, err := want.spec()
	if err != nil {
		return err
	}
	if err := s.acceptable(spec); err != nil {
		return err
	}
	ctx, v, end, err := s.begin(ctx, want.ID)
	if err != nil {
		return err
	}
	defer end()
	if v.published {
		if !v.record.asksFor(want) {
			return fmt.Errorf("%w: this volume ID has another target, pod or attributes", ErrConflict)
		}
		if s.inPlace(want, tokens) {
			return nil
		}
		s.mu.Lock()
		v.record.Identity.AppID = want.Identity.AppID
		s.mu.Unlock()
		outcome, err := s.rotate(ctx, v, originVolume, tokens)
		if err == nil {
			s.opts.Published(want.ID, outcome.Next)
		}
		return err
	}
	if err := s.claim(want.Target, want.ID); err != nil {
		return err
	}
	if err := s.create(ctx, v, want, spec, tokens); err != nil {
		s.release(want.Target)
		if errors.Is(context.Cause(ctx), ErrUnpublished) {
			return ErrUnpublished
		}
		return err
	}
	return nil
}

// claim reserves a target path for a volume ID, so that two volumes can't be written over each other. What the ID has
// claimed already is its own: the caller has the volume's turn.
func (s *Set) claim(target, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.targets[target]; ok && other != id {
		return fmt.Errorf("%w: target path %q belongs to volume %q", ErrConflict, target, other)
	}
	s.targets[target] = id
	return nil
}

func (s *Set) release(target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.targets, target)
}

// create makes a new volume. The record is written when the tmpfs is complete and before it is attached, so that Recover
// finds what a process that ended in between has left; until then, nothing of the volume is on the node.
func (s *Set) create(ctx context.Context, v *volume, r record, spec Spec, tokens providers.TokenSource) error {
	place, err := s.opts.Mounter.Prepare(r.Target) // before a store is asked
	if err != nil {
		return err
	}
	defer place.Close()
	s.mu.Lock()
	v.spec, v.missed = spec, false // from here on, IDs and Using note what is missed
	s.mu.Unlock()
	content, err := s.read(ctx, reading{spec: spec, record: r, tokens: tokens, origin: originVolume, maxAge: spec.RefreshInterval})
	if err != nil {
		return err
	}
	r.Created, r.Held = time.Now().UTC(), content.held
	size, err := s.mount(place, v, r, spec, content.files, func(device uint64) error {
		r.Device = device
		err := s.records.begin(r)
		s.opts.Checkpoint("publishing recorded")
		return err
	})
	if err != nil {
		return errors.Join(err, s.records.remove(r.ID))
	}
	if err := s.records.commit(r.ID); err != nil {
		s.unreserve(size)
		v.shutSockets()
		return errors.Join(err, s.discard(r.ID, r.Target))
	}
	s.opts.Checkpoint("published recorded")

	s.mu.Lock()
	v.published, v.record, v.tokens, v.appID = true, r, tokens, r.Identity.AppID
	v.data, v.size, v.maxAge, v.leases = v.tree.data, size, content.maxAge, requestsOf(content.held)
	if v.missed {
		content.due = time.Now()
	}
	s.mu.Unlock()
	s.opts.Published(r.ID, content.due)
	s.log(slog.LevelInfo, "volume published", &r, slog.Int("files", len(content.files)), slog.Time("due", content.due))
	s.setCondition(v, content.condition(), slog.LevelWarn)
	return nil
}

// log writes a message about a volume.
func (s *Set) log(level slog.Level, message string, r *record, attrs ...slog.Attr) {
	ctx := context.Background()
	if !s.opts.Logger.Enabled(ctx, level) {
		return
	}
	s.opts.Logger.LogAttrs(ctx, level, message, append([]slog.Attr{
		slog.String("volume_id", r.ID), slog.String("target_path", r.Target),
		slog.String("namespace", r.Identity.Namespace), slog.String("pod", r.Identity.Pod),
		slog.String("service_account", r.Identity.ServiceAccount),
	}, attrs...)...)
}

// Unpublish unmounts a volume and forgets it; target is its target path. A publish or rotation of the volume that is
// running is ended. Stores and policies are not asked. What is not there is no error, so that it can be repeated. For a
// volume ID that is not known, whatever Mount could have mounted on target is unmounted: the Set's state may be lost.
// The error is ErrConflict if the target belongs to another volume, or says what the kernel refused.
func (s *Set) Unpublish(ctx context.Context, id, target string) error {
	v, end, err := s.beginUnpublish(ctx, id)
	if err != nil {
		return err
	}
	defer end()
	if !v.published {
		if err := s.claim(target, id); err != nil {
			return err
		}
		defer s.release(target)
		return s.discard(id, target)
	}
	r := v.record
	if target != r.Target {
		return fmt.Errorf("%w: volume %q is published at %q", ErrConflict, id, r.Target)
	}
	v.shutSockets()
	if err := s.dismantle(r); err != nil {
		return err
	}
	s.mu.Lock()
	s.size -= v.size
	v.published = false
	delete(s.targets, r.Target)
	abandoned := s.abandoned(v)
	s.mu.Unlock()
	for _, req := range abandoned {
		s.opts.Leases.Release(req)
	}
	s.opts.Unpublished(id)
	s.log(slog.LevelInfo, "volume unpublished", &r)
	return nil
}

// discard removes what there may be of a volume that is not published. The record stays until the mount is gone, so that
// it is tried again.
func (s *Set) discard(id, target string) error {
	if err := s.opts.Mounter.Unmount(target); err != nil {
		return err
	}
	return s.records.remove(id)
}

// dismantle removes the mount and then the record of a volume. Recover goes on with it if the process ends in between.
func (s *Set) dismantle(r record) error {
	if err := s.records.withdraw(r.ID); err != nil {
		return err
	}
	s.opts.Checkpoint("unpublishing recorded")
	if err := s.opts.Mounter.Unmount(r.Target); err != nil {
		return err
	}
	s.opts.Checkpoint("unmounted")
	if err := s.records.remove(r.ID); err != nil {
		return err
	}
	s.opts.Checkpoint("record removed")
	return nil
}
