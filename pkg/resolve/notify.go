package resolve

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	firstNotifyPause   = time.Second // before Notify is called again after it broke; doubled each time
	longestNotifyPause = time.Minute
)

// Run listens to every installed provider that can tell of changes, and to those that are installed later, until ctx
// ends; then it returns nil. What a provider says is outdated as by Invalidate. A provider whose notifications break
// is listened to again after a pause, and everything cached of it is outdated then, because a change may have been
// missed. Without Run, changes are seen when answers expire.
func (r *Resolver) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	followed := map[*installation]bool{}
	for {
		current := map[*installation]bool{}
		for _, in := range *r.stores.Load() {
			n, ok := in.provider.(providers.Notifier)
			if !ok {
				continue
			}
			current[in] = true
			if !followed[in] {
				following.Go(func() { in.follow(ctx, n) })
			}
		}
		followed = current
		select {
		case <-r.arrived:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow listens to n until ctx ends or the installation is retired.
func (in *installation) follow(ctx context.Context, n providers.Notifier) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-in.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	changed := func(name string) {
		if in.outdate(name) {
			in.changed(in.name, name)
		}
	}
	wait := firstNotifyPause
	for {
		begun := time.Now()
		err := in.notify(ctx, n, changed)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > longestNotifyPause { // it had worked
			wait = firstNotifyPause
		}
		in.log.Warn("notifications broke, retrying", "pause", wait, "err", err)
		if !pause(ctx, jitter(wait)) {
			return
		}
		wait = min(2*wait, longestNotifyPause)
		changed("")
	}
}

// notify calls n.Notify, which should return only when ctx ends. It always returns an error.
func (in *installation) notify(ctx context.Context, n providers.Notifier, changed func(string)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			in.log.Error("provider panicked", "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = errors.New("provider panicked")
		}
	}()
	if err := n.Notify(ctx, changed); err != nil {
		return err
	}
	return errors.New("notifications ended")
}
