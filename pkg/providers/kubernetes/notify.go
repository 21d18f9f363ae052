package kubernetes

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	maxWatches   = 256         // at one time; what is beyond is found by reading again
	firstPause   = time.Second // before a watch that broke is begun again; doubled each time
	longestPause = time.Minute
)

// Notify watches what pods have read, with their own rights. See the package comment for what that covers; the first
// read of a secret is what makes it known here.
func (s *store) Notify(ctx context.Context, changed func(name string)) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()

	var reporting sync.Mutex // changed is not called concurrently
	report := func(name string) {
		reporting.Lock()
		defer reporting.Unlock()
		if ctx.Err() == nil {
			changed(name)
		}
	}
	running := map[target]bool{}
	ended := make(chan target)
	for {
		for _, t := range s.interest.wanted(time.Now()) {
			if running[t] || len(running) >= maxWatches {
				continue
			}
			running[t] = true
			following.Go(func() {
				s.follow(ctx, t, report)
				select {
				case ended <- t:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.done:
			return providers.ErrClosed()
		case <-s.interest.wake:
		case t := <-ended:
			delete(running, t)
		}
	}
}

// follow watches t for as long as somebody reads it and its owner may watch it. Streams end by themselves every few
// minutes and are begun again, with the youngest token.
func (s *store) follow(ctx context.Context, t target, report func(string)) {
	pause := firstPause
	for ctx.Err() == nil {
		token, ok := s.interest.token(t, time.Now())
		if !ok {
			return
		}
		begun := time.Now()
		err := s.watch(ctx, t, token, report)
		worked := time.Since(begun) > longestPause
		if worked {
			pause = firstPause
		}
		switch {
		case ctx.Err() != nil || err == nil && worked:
			continue
		case errors.Is(err, errBadToken):
			s.interest.forget(t.owner, token)
			return
		case providers.KindOf(err) == providers.Denied:
			s.interest.refuse(t, time.Now())
			s.log.Debug("no right to watch, reading again instead", "namespace", t.namespace, "service_account", t.account, "secret", t.name)
			return
		}
		s.log.Debug("watch broke, beginning again", "namespace", t.namespace, "service_account", t.account, "secret", t.name, "pause", pause, "err", err)
		if !sleep(ctx, max(pause/2+rand.N(pause), providers.RetryAfter(err))) {
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// sleep waits for d and reports false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
