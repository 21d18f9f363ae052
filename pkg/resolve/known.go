package resolve

import (
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// trustedFor is how long a store's word that a version is still the same takes the place of reading it. A store may
// allow to ask for the version to those who may not read the value any more, so now and then the value is read.
const trustedFor = time.Hour

// confirmed returns a with the rest of p, which says that the store's version is still a's.
func (a *answer) confirmed(p providers.Payload, now time.Time) *answer {
	p.Fields, p.Version, p.Unchanged = a.payload.Fields, a.payload.Version, false
	return &answer{payload: p, digest: a.digest, fetched: now, transferred: a.transferred}
}

// known returns the content kept for k that the store need not transfer again if its version is still the same; nil if
// there is none. The caller holds the lock.
func (in *installation) known(k key, now time.Time) *answer {
	e := in.cache.get(k)
	if e == nil || k.list || e.answer.refusal != nil || e.answer.payload.Version == "" || now.Sub(e.answer.transferred) >= trustedFor {
		return nil
	}
	return e.answer
}
