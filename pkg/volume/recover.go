package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/keywell/keywell/pkg/volume/mount"
)

// Recover finds the volumes that an earlier process has left in the state directory. A published one is repaired if a
// swap did not end, and goes on as if nothing had happened, with its next rotation spread over its interval; its tokens
// are unknown until the next Publish, and that a rotation can't do without them is no failure before. One that has lost
// its mount is scheduled for a rotation at once, which mounts it. One whose publish or unpublish did not end is removed. A
// record that can't be read is set aside and leaves its mount alone, as does every mount without a record. No store is
// asked.
//
// The error joins what could not be recovered or removed; everything else was.
func (s *Set) Recover(ctx context.Context) error {
	entries, err := s.records.load(s.logBadRecord)
	errs := []error{err}
	for _, e := range entries {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		errs = append(errs, s.recoverVolume(ctx, e))
	}
	return errors.Join(errs...)
}

func (s *Set) logBadRecord(err error) {
	s.opts.Logger.Error("record of a volume set aside", "err", err)
}

func (s *Set) recoverVolume(ctx context.Context, e entry) error {
	r, spec, err := e.record()
	if err != nil {
		s.logBadRecord(err)
		return s.records.setAside(e)
	}
	_, v, end, err := s.begin(ctx, r.ID)
	if err != nil {
		return err
	}
	defer end()
	if err := s.claim(r.Target, r.ID); err != nil {
		return err
	}
	if !e.published {
		defer s.release(r.Target)
		s.log(slog.LevelWarn, "volume removed whose publish or unpublish did not end", &r)
		return s.discard(r.ID, r.Target)
	}
	s.restore(v, r, spec)
	return nil
}

// restore makes v the published volume that r describes.
func (s *Set) restore(v *volume, r record, spec Spec) {
	now := time.Now()
	interval := spec.RefreshInterval
	if interval == 0 {
		interval = defaultInterval
	}
	due := now.Add(rand.N(interval))
	size, err := s.adopt(v, &r, spec)

	s.mu.Lock()
	v.published, v.recovered, v.unadopted = true, true, len(r.Held) > 0
	v.record, v.appID, v.spec, v.size, v.maxAge = r, r.Identity.AppID, spec, size, youngerThan(spec.RefreshInterval)
	if err == nil {
		v.data = v.tree.data
	}
	s.size += size
	s.mu.Unlock()
	if err != nil {
		due = now
		s.setCondition(v, Condition{Abnormal: true, Message: fmt.Sprintf("the volume is not as the agent left it: %v", err)}, slog.LevelError)
	}
	s.opts.Published(r.ID, due)
	s.log(slog.LevelInfo, "volume found", &r, slog.Time("due", due))
}

// adopt repairs what is mounted on the target and learns what is in it. If the process ended while it mounted the volume
// again, whatever Mount could have put there is what it mounted.
func (s *Set) adopt(v *volume, r *record, spec Spec) (size int64, err error) {
	dir, info, err := s.opts.Mounter.Open(r.Target)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	if r.Device == 0 {
		r.Device = info.Device
		if err := s.records.save(*r); err != nil {
			return 0, err
		}
	}
	if info.Device != r.Device {
		return 0, mount.ErrOccupied
	}
	if size, err = v.tree.adopt(dir, spec.owner()); err != nil {
		size = info.UsedBytes
	}
	return size, errors.Join(err, s.openSockets(v, *r, spec, dir))
}
