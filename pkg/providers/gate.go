package providers

import (
	"context"
	"strings"
	"sync/atomic"
)

// Gate stands before the calls of a provider: it refuses those that come too late and those that ask for what the store does
// not have. A provider that embeds a *Gate has Close from it. Make one with NewGate. It is safe for concurrent use.
type Gate struct {
	has     Selectors
	release func()
	closed  atomic.Bool
}

// NewGate returns the open gate of a store that has the selectors. The first Close calls release.
func NewGate(has Selectors, release func()) *Gate { return &Gate{has: has, release: release} }

// Enter returns nil if a call for q may go on; else ctx's error, Unavailable after Close, or Invalid for a selector that the
// store does not have.
func (g *Gate) Enter(ctx context.Context, q Query) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case g.closed.Load():
		return ErrClosed()
	case q.Namespace != "" && !g.has.Namespace:
		return Errorf(Invalid, "the store has no namespaces")
	case q.Stage != "" && !g.has.Stage && g.has.Version:
		return Errorf(Invalid, "the store has no stages (a version is asked for with version_id, by its label or alias too if it has one)")
	case q.Stage != "" && !g.has.Stage:
		return Errorf(Invalid, "the store has no stages")
	case q.Version != "" && !g.has.Version:
		return Errorf(Invalid, "the store has no versions")
	}
	return nil
}

// Close makes further calls fail.
func (g *Gate) Close() error {
	if !g.closed.Swap(true) {
		g.release()
	}
	return nil
}

// ErrClosed returns the error of a call that comes after Close. Its kind is Unavailable.
func ErrClosed() error { return Errorf(Unavailable, "provider is closed") }

// ConsistsOf tells whether s is one to most ASCII letters, digits and characters of others, as names of secrets are in most
// stores. What is not is refused before it becomes part of a request.
func ConsistsOf(s string, most int, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= most
}
