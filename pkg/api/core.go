package api

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// origin names this package in audit records.
const origin = "api"

// failOnError is the request metadata that makes one unreadable secret fail a bulk call.
const failOnError = "failOnError"

// core answers requests whose caller is known, whatever the protocol.
type core struct {
	policy   interface{ Policy() *scope.Policy }
	resolver Resolver
	audit    Auditor
	stores   Stores
	tokens   func(scope.Identity) providers.TokenSource
	watches  Watches
	stopping <-chan struct{} // closed when streams must end
	streams  streams
	appID    string
	version  string
	added    addedMetadata
	bulks    *bulkCache
	metrics  *metrics
	logger   *slog.Logger
}

// query is a request for one secret, or for all of a store if name is empty.
type query struct {
	store    string
	name     string
	metadata map[string]string // Dapr's request metadata, as sent
	fresh    bool              // the store itself must answer
	keyBytes int               // size of the names that are asked for beside name
}

// maxQuery bounds what a query may hold, in bytes. No store has names as long, and they are kept in caches, error texts
// and records.
const maxQuery = 16 << 10

// size returns how many bytes of q the caller chose.
func (q *query) size() int {
	n := len(q.store) + len(q.name) + q.keyBytes
	for key, value := range q.metadata {
		n += len(key) + len(value)
	}
	return n
}

// secretAnswer is the answer to a get.
type secretAnswer struct {
	fields []field
	none   bool // the store answered with no fields at all, rather than an empty set
	stamp
}

// get returns the secret that q asks for. The error is a *fault.
func (c *core) get(ctx context.Context, id scope.Identity, q query) (secretAnswer, error) {
	policy := c.policy.Policy()
	store, err := c.openStore(ctx, policy, id, q)
	if err != nil {
		return secretAnswer{}, err
	}
	ref, rest := q.selectors(store.Selectors)
	grant, err := policy.Authorize(id, ref)
	if err != nil {
		return secretAnswer{}, c.refuse(ctx, policy, id, ref, err)
	}
	result, err := c.resolver.Resolve(ctx, resolve.Request{Grant: grant, Metadata: rest, Tokens: c.tokens(id), Fresh: q.fresh, Origin: origin})
	if err != nil {
		return c.unanswered(policy, id, q, store, err)
	}
	return c.answer(q, result)
}

// answer returns the answer that shows result. The error is a *fault.
func (c *core) answer(q query, result resolve.Result) (secretAnswer, error) {
	fields, err := reveal(nil, result.Fields)
	if err != nil {
		return secretAnswer{}, getFault(q.store, q.name, err)
	}
	return secretAnswer{fields: fields, none: result.Fields == nil, stamp: stampOf(result)}, nil
}

// unanswered returns what Dapr answers where the store has no secret to give.
func (c *core) unanswered(policy *scope.Policy, id scope.Identity, q query, store Store, err error) (secretAnswer, error) {
	kind := providers.KindOf(err)
	switch {
	case errors.Is(err, resolve.ErrStoreClosed): // since it was looked up
		return secretAnswer{}, c.missingStore(policy, id, q.store)
	case store.MissingIsEmpty && (kind == providers.NotFound || kind == providers.Denied):
		return secretAnswer{fields: []field{{name: q.name}}}, nil
	default:
		return secretAnswer{}, getFault(q.store, q.name, err)
	}
}

// errNotInService is why a read is refused before the policy is asked for the secret.
var errNotInService = errors.New("store is not in service")

// openStore returns the store that q names if it is in service and id may know of it. The error is a *fault; what was
// asked is on record then.
func (c *core) openStore(ctx context.Context, policy *scope.Policy, id scope.Identity, q query) (Store, error) {
	if q.size() > maxQuery {
		return Store{}, newFault(tooLarge, reasonBadRequest, maxQuery)
	}
	key := policy.Key(id, q.store)
	if s, ok := c.stores.Store(key); ok && s.Open && policy.Visible(id, key) {
		return s, nil
	}
	ref := scope.Ref{Store: q.store, Name: q.name}
	_, err := policy.Authorize(id, ref)
	if !errors.Is(err, scope.ErrStoreNotFound) { // the policy is not in the way
		err = errNotInService
	}
	ref.Store = key
	c.audit.AuditDenied(ctx, origin, id, ref, err)
	return Store{}, c.missingStore(policy, id, q.store)
}

// missingStore returns the failure for a store that is not there for id. As in Dapr, it depends on whether any other is.
func (c *core) missingStore(policy *scope.Policy, id scope.Identity, name string) *fault {
	anyOpen, closed := false, false
	key := policy.Key(id, name)
	for _, s := range c.stores.Stores() {
		if policy.Visible(id, s.Key) {
			anyOpen = anyOpen || s.Open
			closed = closed || s.Key == key && !s.Open
		}
	}
	f := newFault(noStores, reasonStoresNotConfigured)
	if anyOpen {
		f = newFault(storeNotFound, reasonStoreNotFound, name)
	}
	if closed {
		f.reason = reasonStoreClosed
	}
	f.store = name
	return f
}

// refuse records that the policy said no, and returns what the caller is told.
func (c *core) refuse(ctx context.Context, policy *scope.Policy, id scope.Identity, ref scope.Ref, err error) *fault {
	recorded := ref
	recorded.Store = policy.Key(id, ref.Store)
	c.audit.AuditDenied(ctx, origin, id, recorded, err)
	if errors.Is(err, scope.ErrStoreNotFound) {
		return c.missingStore(policy, id, ref.Store)
	}
	return deniedFault(ref.Store, ref.Name, err)
}

// selectors splits Dapr's request metadata into what selects other bytes, which goes into the Ref, and the rest. A
// selector that the store does not have is dropped. Keys are case-sensitive, as in Dapr.
func (q *query) selectors(known providers.Selectors) (ref scope.Ref, rest map[string]string) {
	ref = scope.Ref{Store: q.store, Name: q.name}
	for key, value := range q.metadata {
		switch key {
		case "version_id", "VersionID": // the second is Tencent's; the first wins
			if known.Version && (ref.Version == "" || key == "version_id") {
				ref.Version = value
			}
		case "version_stage":
			if known.Stage {
				ref.Stage = value
			}
		case "namespace":
			if known.Namespace {
				ref.Namespace = value
			}
		case failOnError:
		default:
			if rest == nil {
				rest = make(map[string]string, len(q.metadata))
			}
			rest[key] = value
		}
	}
	return ref, rest
}

// failsOnError reports whether one unreadable secret must fail a bulk call.
func (q *query) failsOnError() bool { return strings.EqualFold(q.metadata[failOnError], "true") }
