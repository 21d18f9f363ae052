package lease

import (
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// issued is one secret that a store made, and how long it lives. The zero issued is none.
type issued struct {
	payload providers.Payload
	lease   providers.Lease // as of the last renewal; its ID is empty for what has no lease
	asked   time.Time       // when it was made, or its lease prolonged last
	life    time.Duration   // of the whole, as it was made
	final   bool            // the lease can't be prolonged to a whole life any more
	since   time.Time       // from when lease.Alone counts

	unchecked bool // nobody has asked the store about it since it was taken over
}

func issuedAt(p providers.Payload, asked time.Time) issued {
	i := issued{payload: p, asked: asked, since: asked}
	if p.Lease != nil {
		i.lease, i.life = *p.Lease, p.Lease.Duration
		i.final = !p.Lease.Renewable
	} else {
		i.life = p.NotAfter.Sub(asked)
	}
	return i
}

func (i issued) known() bool { return i.life > 0 }

// ends returns when it ceases to be valid, unless it is prolonged.
func (i issued) ends() time.Time {
	if i.lease.ID == "" {
		return i.payload.NotAfter
	}
	end := i.asked.Add(i.lease.Duration)
	if alone := i.lease.Alone; !alone.IsZero() && alone.Before(end) {
		return alone
	}
	return end
}

// over tells whether it is not valid any more.
func (i issued) over(now time.Time) bool { return !now.Before(i.ends()) }

// renewalDue tells whether the lease, or what it hangs on, is to be prolonged: from two thirds on.
func (i issued) renewalDue(now time.Time) bool {
	return i.unchecked || !i.final && passed(now, i.asked, i.lease.Duration, 2, 3) || i.aloneFor(now, 2, 3)
}

// replacementDue tells whether the next has to be got while this one is still valid.
func (i issued) replacementDue(now time.Time) bool {
	switch {
	case i.over(now):
		return true
	case i.lease.ID == "":
		return passed(now, i.asked, i.life, 2, 3)
	default:
		return i.final && passed(now, i.asked, i.lease.Duration, 2, 3) || i.aloneFor(now, 3, 4)
	}
}

// aloneFor tells whether the given part of the time has passed that the lease has without what it hangs on.
func (i issued) aloneFor(now time.Time, part, of time.Duration) bool {
	alone := i.lease.Alone
	return !alone.IsZero() && passed(now, i.since, alone.Sub(i.since), part, of)
}

func passed(now, from time.Time, span, part, of time.Duration) bool {
	return !now.Before(from.Add(span / of * part))
}

// renewed takes note of what the store says of the lease. One that it does not prolong to nearly a whole life has met its
// longest, and is replaced when two thirds of the rest have passed: from then on only what it hangs on is asked about.
func (i *issued) renewed(l providers.Lease, asked time.Time) {
	id, alone := i.lease.ID, i.lease.Alone
	if !l.Alone.IsZero() && !l.Alone.Equal(alone) {
		alone, i.since = l.Alone, asked
	}
	if i.unchecked || !i.final {
		i.lease, i.asked = l, asked
		i.final = !l.Renewable || l.Duration < i.life*9/10
	}
	i.lease.ID, i.lease.Alone = id, alone
}
