package servertest

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Keys are the access keys that a fake of a cloud takes: users' and, for a while, those of the sessions of roles. A fake embeds
// it. It is safe for concurrent use.
type Keys struct {
	mu      sync.Mutex
	keys    map[string]Key      // by id
	trusted map[string][]string // role → subjects of tokens that may assume it
	life    time.Duration       // of sessions; zero: an hour
	skew    time.Duration       // of the fake's clock
}

// Key is what a caller signs with.
type Key struct {
	ID, Secret, Token string
	Principal         string    // who that is: a user or a role
	Expires           time.Time // zero: never
}

// AddKey makes a key.
func (k *Keys) AddKey(key Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(key)
}

func (k *Keys) add(key Key) {
	if k.keys == nil {
		k.keys = map[string]Key{}
	}
	k.keys[key.ID] = key
}

// Key returns a key and whether there is one.
func (k *Keys) Key(id string) (Key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.keys[id]
	return key, ok
}

// Expired tells whether the key is too old.
func (k Key) Expired() bool { return !k.Expires.IsZero() && time.Now().After(k.Expires) }

// Trust makes a role that subjects of tokens may assume.
func (k *Keys) Trust(role string, subjects ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.trusted == nil {
		k.trusted = map[string][]string{}
	}
	k.trusted[role] = subjects
}

// Trusts tells whether there is a role, and whether subject may assume it.
func (k *Keys) Trusts(role, subject string) (known, trusted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	subjects, known := k.trusted[role]
	return known, slices.Contains(subjects, subject)
}

// Session makes the key of a session of a role. Its secret begins with s3cr3t and its token with t0ken.
func (k *Keys) Session(role string) Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	life := k.life
	if life == 0 {
		life = time.Hour
	}
	id := fmt.Sprintf("session%d", len(k.keys))
	key := Key{ID: id, Secret: "s3cr3t-" + id, Token: "t0ken-" + id, Principal: role, Expires: time.Now().Add(life)}
	k.add(key)
	return key
}

// Life is how long the sessions live that are given from now on.
func (k *Keys) Life(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.life = d
}

// Expire makes the keys of all sessions too old.
func (k *Keys) Expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, key := range k.keys {
		if !key.Expires.IsZero() {
			key.Expires = time.Now().Add(-time.Second)
			k.keys[id] = key
		}
	}
}

// Skew sets the fake's clock apart from the caller's.
func (k *Keys) Skew(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.skew = d
}

// Since returns how long ago something was by the fake's clock.
func (k *Keys) Since(at time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(at) + k.skew
}
