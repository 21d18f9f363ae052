package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume/mount"
)

// Rotate authorises and reads a volume's secrets again, and replaces its files if any of them changed. A volume that
// has lost its mount is mounted again. On an error the files stay as they are and the volume is abnormal until a
// rotation succeeds; Outcome.Next is set. The error is ErrNotPublished, or as for Publish.
func (s *Set) Rotate(ctx context.Context, id string) (Outcome, error) {
	ctx, v, end, err := s.begin(ctx, id)
	if err != nil {
		return Outcome{}, err
	}
	defer end()
	if !v.published {
		return Outcome{}, fmt.Errorf("rotate %q: %w", id, ErrNotPublished)
	}
	s.mu.Lock()
	tokens := v.tokens
	if tokens == nil {
		tokens = s.opts.Tokens(v.record.Identity)
	}
	v.record.Identity.AppID = v.appID
	s.mu.Unlock()
	return s.rotate(ctx, v, originRotation, tokens)
}

// rotate does what Rotate promises, and what Publish does with a volume that is not in place.
func (s *Set) rotate(ctx context.Context, v *volume, origin string, tokens providers.TokenSource) (Outcome, error) {
	s.mu.Lock()
	recovered := v.recovered
	s.mu.Unlock()
	rd := reading{spec: v.spec, record: v.record, tokens: tokens, origin: origin, maxAge: v.maxAge}
	var content content
	changed, err := false, s.adoptLeases(ctx, v, rd)
	if err == nil {
		rd.parts = v.parts
		content, err = s.read(ctx, rd)
	}
	if err == nil {
		changed, err = s.update(v, content.files)
	}
	if err == nil {
		err = s.hold(v, content.held)
	}
	if err != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, ErrUnpublished):
			return Outcome{}, ErrUnpublished
		case errors.Is(cause, context.Canceled):
			return Outcome{}, err // whoever asked has gone; that says nothing of the volume
		case recovered && errors.Is(err, providers.ErrNoTokens):
			// The kubelet brings them with its next Publish, within two minutes. Until then nothing is wrong.
			return Outcome{Identity: v.record.Identity, Next: time.Now().Add(defaultInterval)}, nil
		}
		s.metrics.rotations.WithLabelValues(rotationResult(false, err)).Inc()
		s.setCondition(v, failure(err), slog.LevelError)
		return Outcome{Identity: v.record.Identity, Next: time.Now().Add(max(v.maxAge, minInterval))}, err
	}
	s.metrics.rotations.WithLabelValues(rotationResult(changed, nil)).Inc()
	s.setCondition(v, content.condition(), slog.LevelWarn)
	s.mu.Lock()
	v.maxAge = content.maxAge
	s.mu.Unlock()
	if changed {
		s.log(slog.LevelInfo, "volume rotated", &v.record, slog.Int("files", len(content.files)))
	}
	return Outcome{Identity: v.record.Identity, Changed: changed, Stale: content.stale, Next: content.due}, nil
}

// update makes files the content of a published volume, and reports whether they were not yet.
func (s *Set) update(v *volume, files []File) (changed bool, err error) {
	dir, info, err := s.opts.Mounter.Open(v.record.Target)
	if errors.Is(err, mount.ErrNotMounted) {
		return true, s.remount(v, files)
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if info.Device != v.record.Device {
		return false, fmt.Errorf("update %q: %w", v.record.Target, mount.ErrOccupied)
	}
	if link, err := readLink(dir.Fd(), dataLink); err != nil || link != v.tree.data {
		v.tree = tree{} // somebody else has been in it, so nothing is known of it
	}
	if err := s.openSockets(v, v.record, v.spec, dir); err != nil { // no more than a try if there are any
		return false, err
	}
	o := v.spec.owner()
	if v.tree.holds(files, o) {
		return false, nil
	}
	size, err := s.reserve(v.spec, files, func() error {
		return v.tree.replace(dir, files, o, s.opts.Checkpoint)
	})
	if err != nil {
		return false, err
	}
	s.replaced(v, v.record, size)
	return true, nil
}

// remount mounts a published volume that has lost its mount. The record says so first: it can't name a device that does
// not exist yet, and a process that finds the old one would take the new mount for somebody else's.
func (s *Set) remount(v *volume, files []File) error {
	place, err := s.opts.Mounter.Prepare(v.record.Target)
	if err != nil {
		return err
	}
	defer place.Close()
	r := v.record
	r.Device = 0
	if err := s.records.save(r); err != nil {
		return err
	}
	size, err := s.mount(place, v, r, v.spec, files, func(device uint64) error {
		r.Device = device
		return nil
	})
	if err != nil {
		return err
	}
	s.replaced(v, r, size)
	return s.records.save(r)
}

// replaced notes that a published volume has new files.
func (s *Set) replaced(v *volume, r record, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= v.size
	v.record, v.size, v.data = r, size, v.tree.data
}

// mount makes a volume's tmpfs with files in it. filled is called with its device number when it is complete and not yet
// attached. The size that mount returns is reserved.
func (s *Set) mount(place mount.Place, v *volume, r record, spec Spec, files []File, filled func(device uint64) error) (size int64, err error) {
	limit, err := s.limit(spec)
	if err != nil {
		return 0, err
	}
	v.shutSockets() // those of a mount that is gone
	v.tree = tree{clean: true}
	size, err = s.reserve(spec, files, func() error {
		return place.Mount(r.mountOptions(limit), func(dir mount.Dir, device uint64) error {
			s.opts.Checkpoint("tmpfs made")
			if err := v.tree.replace(dir, files, spec.owner(), s.opts.Checkpoint); err != nil {
				return err
			}
			if err := s.openSockets(v, r, spec, dir); err != nil {
				return err
			}
			return filled(device)
		})
	})
	if err == nil {
		s.opts.Checkpoint("mounted")
	} else {
		v.shutSockets()
	}
	return size, err
}

// reserve counts files, while write writes them and those that they replace are still there, against the limits: pages
// of a tmpfs are charged to the agent, and one that exceeds its memory limit is killed in the middle. If write fails,
// they do not count any more.
func (s *Set) reserve(spec Spec, files []File, write func() error) (size int64, err error) {
	limit, err := s.limit(spec)
	if err != nil {
		return 0, err
	}
	size, entries := footprint(files)
	if entries > maxEntries {
		return 0, fmt.Errorf("%w: it has %d files, directories and links, and %d are allowed", ErrTooLarge, entries, maxEntries)
	}
	if size > limit {
		return 0, fmt.Errorf("%w: its files take %d bytes in whole pages, and %d are allowed", ErrTooLarge, size, limit)
	}
	s.mu.Lock()
	taken := s.size
	if taken+size <= s.opts.MaxNodeBytes {
		s.size += size
	}
	s.mu.Unlock()
	if taken+size > s.opts.MaxNodeBytes {
		return 0, fmt.Errorf("%w: its files take %d bytes, and all volumes of the node are allowed %d, of which %d are taken",
			ErrTooLarge, size, s.opts.MaxNodeBytes, taken)
	}
	written := false
	defer func() {
		if !written {
			s.unreserve(size)
		}
	}()
	err = write()
	written = err == nil
	return size, err
}

func (s *Set) unreserve(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= size
}

func (s Spec) owner() owner { return owner{uid: s.UID, gid: s.GID} }

// failure is the condition of a volume that could not be rotated. A revoked grant does not take the files away: the
// policy is edited while pods run, and what a process has open can't be taken back. It ends the updates, visibly.
func failure(err error) Condition {
	if denied, ok := errors.AsType[*scope.DeniedError](err); ok {
		return Condition{Abnormal: true, Message: fmt.Sprintf("the files are kept and not updated any more: %v (%s)", err, denied.Rule)}
	}
	return Condition{Abnormal: true, Message: fmt.Sprintf("the files are kept and not updated: %v", err)}
}

// setCondition logs a condition when it comes, at a level, and when it goes.
func (s *Set) setCondition(v *volume, c Condition, level slog.Level) {
	s.mu.Lock()
	old := v.condition
	v.condition = c
	s.mu.Unlock()
	switch {
	case c == old:
	case c.Abnormal:
		s.log(level, "volume is abnormal", &v.record, slog.String("condition", c.Message))
	default:
		s.log(slog.LevelInfo, "volume is normal again", &v.record)
	}
}
