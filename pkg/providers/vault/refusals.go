package vault

import (
	"sync"
	"time"
)

// refusals remembers for a while who may not ask for something, so that they are not made to ask each time.
type refusals struct {
	mu    sync.Mutex
	until map[caller]time.Time
}

const refusedFor = 10 * time.Minute

func newRefusals() *refusals { return &refusals{until: map[caller]time.Time{}} }

func (r *refusals) add(who caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until[who] = time.Now().Add(refusedFor)
}

func (r *refusals) refused(who caller) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[who]
	if ok && !time.Now().Before(until) {
		delete(r.until, who)
		ok = false
	}
	return ok
}
