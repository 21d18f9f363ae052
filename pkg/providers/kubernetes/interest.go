package kubernetes

import (
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/secret"
)

const (
	idle       = time.Hour        // how long after its last read a secret is watched
	refusedFor = 10 * time.Minute // how long a right to watch that was missing is not tried again
	maxNames   = 1000             // secrets that are remembered of one owner
)

// owner is with whose rights, and in which namespace, secrets are read.
type owner struct{ namespace, callerNamespace, account string }

// target is what one watch is for: a secret, or all of the namespace if name is empty.
type target struct {
	owner
	name string
}

// interest remembers what pods have read, so that it can be watched. It is safe for concurrent use.
type interest struct {
	wake chan struct{} // level trigger: what should be watched may have changed

	mu     sync.Mutex
	owners map[owner]*holding
}

// holding is what one owner has read.
type holding struct {
	token   secret.Value // the youngest that a read brought
	expires time.Time
	names   map[string]reading
	refused map[string]time.Time // name of a target → when it may be tried again
}

// reading is the last read of a secret.
type reading struct {
	version string // resource version; empty: there was no such secret
	at      time.Time
}

func newInterest() *interest {
	return &interest{wake: make(chan struct{}, 1), owners: map[owner]*holding{}}
}

// read takes note of a read that the API server answered, with the version of the secret or none.
func (i *interest) read(r read, version string, now time.Time) {
	i.mu.Lock()
	h := i.owners[r.owner]
	if h == nil {
		h = &holding{names: map[string]reading{}, refused: map[string]time.Time{}}
		i.owners[r.owner] = h
	}
	if r.expires.After(h.expires) {
		h.token, h.expires = r.token, r.expires
	}
	if _, known := h.names[r.name]; known || len(h.names) < maxNames {
		h.names[r.name] = reading{version: version, at: now}
	}
	i.mu.Unlock()
	i.nudge()
}

func (i *interest) nudge() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// wanted returns what should be watched now, and forgets what nobody reads any more.
func (i *interest) wanted(now time.Time) []target {
	i.mu.Lock()
	defer i.mu.Unlock()
	var all []target
	for o, h := range i.owners {
		for name, r := range h.names {
			if now.Sub(r.at) > idle {
				delete(h.names, name)
				delete(h.refused, name)
			}
		}
		if len(h.names) == 0 {
			delete(i.owners, o)
			continue
		}
		all = append(all, h.wanted(o, now)...)
	}
	return all
}

func (h *holding) wanted(o owner, now time.Time) []target {
	switch {
	case !now.Before(h.expires):
		return nil
	case !now.Before(h.refused[""]):
		return []target{{owner: o}}
	}
	var each []target
	for name := range h.names {
		if !now.Before(h.refused[name]) {
			each = append(each, target{o, name})
		}
	}
	return each
}

// token returns the token to watch t with, and false if t should not be watched (any more).
func (i *interest) token(t target, now time.Time) (secret.Value, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	h := i.owners[t.owner]
	if h == nil || !now.Before(h.expires) {
		return secret.Value{}, false
	}
	for name, r := range h.names {
		if (t.name == "" || t.name == name) && now.Sub(r.at) <= idle {
			return h.token, true
		}
	}
	return secret.Value{}, false
}

// refuse takes note that the owner may not watch t.
func (i *interest) refuse(t target, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.owners[t.owner]; h != nil {
		h.refused[t.name] = now.Add(refusedFor)
	}
}

// forget drops a token that the API server does not accept; the next read brings another.
func (i *interest) forget(o owner, token secret.Value) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.owners[o]; h != nil && h.token.Equal(token) {
		h.token, h.expires = secret.Value{}, time.Time{}
	}
}

// known returns the last read of a secret, and false if there was none.
func (i *interest) known(o owner, name string) (reading, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.owners[o]; h != nil {
		r, ok := h.names[name]
		return r, ok
	}
	return reading{}, false
}

// present returns the secrets of t that were there when they were read last.
func (i *interest) present(t target) []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var names []string
	if h := i.owners[t.owner]; h != nil {
		for name, r := range h.names {
			if r.version != "" && (t.name == "" || t.name == name) {
				names = append(names, name)
			}
		}
	}
	return names
}
