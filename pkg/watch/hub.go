package watch

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// Origin names this package in audit records.
const Origin = "watch"

// The default limits, in watched secrets.
const (
	defaultPerCaller = 256
	defaultPerNode   = 16384
)

// Options configures a Hub. Policy and Resolver are required.
type Options struct {
	// Policy gives the policy in force; Hub.PolicyChanged says that it is another.
	Policy   interface{ Policy() *scope.Policy }
	Resolver Resolver
	// Tokens returns the service-account tokens of a caller, for stores that are read as the caller. Nil: no caller has any.
	Tokens func(scope.Identity) providers.TokenSource
	// MaxPerCaller and MaxPerNode bound the secrets that one caller and that all callers watch; a secret counts for each
	// Subscription to it. Defaults 256 and 16384.
	MaxPerCaller, MaxPerNode int
	Registerer               prometheus.Registerer // nil: no metrics
}

// Resolver is what the Hub needs of resolve.Resolver.
type Resolver interface {
	Resolve(ctx context.Context, req resolve.Request) (resolve.Result, error)
	List(ctx context.Context, req resolve.Request) (resolve.Listing, error)
}

// ErrTooMany is returned where a caller, or all callers together, would watch more secrets than is allowed.
var ErrTooMany = errors.New("too many secrets are watched")

// Hub holds all subscriptions. It is safe for concurrent use.
type Hub struct {
	policy                   interface{ Policy() *scope.Policy }
	resolver                 Resolver
	tokens                   func(scope.Identity) providers.TokenSource
	maxPerCaller, maxPerNode int
	metrics                  *metrics

	mu        sync.Mutex
	stores    map[string]*storeTopics // store name → its topics
	subs      map[*Subscription]struct{}
	perCaller map[scope.Identity]int // watched secrets
	watched   int                    // the sum of perCaller
	topics    int
}

// New returns a Hub, which runs nothing while nobody subscribes.
func New(opts Options) *Hub {
	tokens := opts.Tokens
	if tokens == nil {
		tokens = func(scope.Identity) providers.TokenSource { return nil }
	}
	h := &Hub{
		policy:       opts.Policy,
		resolver:     opts.Resolver,
		tokens:       tokens,
		maxPerCaller: cmp.Or(opts.MaxPerCaller, defaultPerCaller),
		maxPerNode:   cmp.Or(opts.MaxPerNode, defaultPerNode),
		stores:       map[string]*storeTopics{},
		subs:         map[*Subscription]struct{}{},
		perCaller:    map[scope.Identity]int{},
	}
	h.metrics = newMetrics(opts.Registerer, h)
	return h
}

// Changed says that a store may have other content for a secret, or for any if name is empty. It does not block.
func (h *Hub) Changed(store, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stores[store]
	if s == nil {
		return
	}
	if name == "" {
		for _, topics := range s.named {
			nudgeAll(topics)
		}
		return
	}
	nudgeAll(s.named[name])
	nudgeAll(s.named[""]) // listings: any change may add or remove a name
}

func nudgeAll(topics map[*topic]struct{}) {
	for t := range topics {
		signal(t.nudge)
	}
}

// PolicyChanged says that another policy is in force. It does not block.
func (h *Hub) PolicyChanged() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.recheck = true
		signal(s.ready)
	}
}

// signal sets a level trigger.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
