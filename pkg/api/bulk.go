package api

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// bulkReaders is how many secrets one bulk call reads at a time. The resolver limits what reaches the store.
const bulkReaders = 16

// bulkAnswer is the encoded answer to a bulk call. The body is shared and must not be changed.
type bulkAnswer struct {
	body    []byte
	secrets int
	stamp
}

// bulk returns all secrets of a store that id may read, encoded. The error is a *fault.
func (c *core) bulk(ctx context.Context, id scope.Identity, q query, f format) (bulkAnswer, error) {
	policy := c.policy.Policy()
	store, err := c.openStore(ctx, policy, id, q)
	if err != nil {
		return bulkAnswer{}, err
	}
	ref, rest := q.selectors(store.Selectors)
	list, err := policy.AuthorizeList(id, scope.Ref{Store: ref.Store, Namespace: ref.Namespace})
	if err != nil {
		return bulkAnswer{}, c.refuse(ctx, policy, id, ref, err)
	}
	key := bulkKey{id: id, ref: ref, format: f}
	basis := bulkBasis{policy: policy, epoch: c.resolver.Epoch(list.Ref().Store)} // taken before reading, so that a change meanwhile shows
	cacheable := rest == nil                                                      // the rest may select other names
	if cacheable && !q.fresh {
		if answer, ok := c.bulks.get(key, basis, time.Now()); ok && (answer.incomplete == 0 || !q.failsOnError()) {
			c.audit.AuditBulk(ctx, origin, list, answer.secrets)
			return answer, nil
		}
	}
	req := resolve.Request{Grant: list, Metadata: rest, Tokens: c.tokens(id), Fresh: q.fresh, Origin: origin}
	listing, err := c.resolver.List(ctx, req)
	switch {
	case errors.Is(err, resolve.ErrStoreClosed): // since it was looked up
		return bulkAnswer{}, c.missingStore(policy, id, q.store)
	case err != nil:
		return bulkAnswer{}, bulkFault(q.store, "", err)
	}
	a, err := c.assemble(ctx, listing, grants(policy, id, ref, listing.Names), q, req, f)
	if err != nil {
		return bulkAnswer{}, err
	}
	answer := a.answer()
	if cacheable && !a.transient {
		c.bulks.put(key, basis, answer, a.expires)
	}
	return answer, nil
}

// grants returns a Grant for each of names that id may read.
func grants(policy *scope.Policy, id scope.Identity, ref scope.Ref, names []string) []scope.Grant {
	granted := make([]scope.Grant, 0, len(names))
	for _, ref.Name = range names {
		if grant, err := policy.Authorize(id, ref); err == nil {
			granted = append(granted, grant)
		}
	}
	return granted
}

// assemble reads what is granted of a listing, each secret by a request like req, and puts it together. The error is a *fault.
func (c *core) assemble(ctx context.Context, listing resolve.Listing, grants []scope.Grant, q query, req resolve.Request, f format) (*assembly, error) {
	reads, err := c.readAll(ctx, grants, req, q.failsOnError())
	if err != nil {
		return nil, err
	}
	a := newAssembly(f, listing)
	for i, r := range reads {
		a.add(grants[i].Ref().Name, r)
	}
	if a.incomplete == 0 {
		return a, nil
	}
	if a.encoder.count == 0 || q.failsOnError() {
		return nil, bulkFault(q.store, a.firstFailed, a.firstErr)
	}
	c.metrics.leftOut(q.store, a.incomplete)
	c.logger.LogAttrs(ctx, slog.LevelDebug, "bulk answer is incomplete", slog.String("store", q.store),
		slog.Int("left_out", a.incomplete), slog.String("secret", a.firstFailed), slog.Any("err", a.firstErr))
	return a, nil
}

// read is the outcome of reading one secret.
type read struct {
	resolve.Result
	err error
}

// readAll reads every secret that is granted; the results have the order of grants. With failFast the first failure is
// returned instead.
func (c *core) readAll(ctx context.Context, grants []scope.Grant, req resolve.Request, failFast bool) ([]read, error) {
	results := make([]read, len(grants))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(bulkReaders)
	for i, grant := range grants {
		group.Go(func() error {
			r, req := &results[i], req // a request of its own
			req.Grant = grant
			r.Result, r.err = c.resolver.Resolve(ctx, req)
			if failFast && r.err != nil && providers.KindOf(r.err) != providers.NotFound {
				return bulkFault(grant.Ref().Store, grant.Ref().Name, r.err)
			}
			return nil
		})
	}
	return results, group.Wait()
}

// assembly puts the secrets of a bulk answer together.
type assembly struct {
	stamp
	encoder bulkEncoder
	fields  []field // scratch
	digest  hash.Hash
	expires time.Time // when the first part expires

	firstFailed string
	firstErr    error
	transient   bool // a failure may pass by itself
}

// newAssembly returns an assembly of nothing yet, which is as good as the listing that it is made from.
func newAssembly(f format, l resolve.Listing) *assembly {
	return &assembly{
		encoder: bulkEncoder{format: f}, digest: sha256.New(),
		stamp: stamp{fetchedAt: l.FetchedAt, stale: l.Stale}, expires: l.ExpiresAt,
	}
}

// add adds a secret, or notes that it can't be had. A secret that is gone since it was listed is neither.
func (a *assembly) add(name string, r read) {
	err := r.err
	if err == nil {
		a.fields, err = reveal(a.fields[:0], r.Fields)
	}
	switch {
	case err == nil:
		a.encoder.add(name, a.fields)
		a.merge(name, r.Result)
	case providers.KindOf(err) == providers.NotFound:
	default:
		a.incomplete++
		a.transient = a.transient || r.err != nil
		if a.firstErr == nil {
			a.firstFailed, a.firstErr = name, err
		}
	}
}

// merge makes the stamp no better than r's.
func (a *assembly) merge(name string, r resolve.Result) {
	var length [binary.MaxVarintLen64]byte
	a.digest.Write(binary.AppendUvarint(length[:0], uint64(len(name))))
	a.digest.Write([]byte(name))
	a.digest.Write(r.Digest[:])
	a.stale = a.stale || r.Stale
	if r.FetchedAt.Before(a.fetchedAt) {
		a.fetchedAt = r.FetchedAt
	}
	if r.ExpiresAt.Before(a.expires) {
		a.expires = r.ExpiresAt
	}
}

// answer returns the finished answer. Its entity tag is made of the secrets' digests, which are keyed.
func (a *assembly) answer() bulkAnswer {
	a.etag = entityTag(resolve.Digest(a.digest.Sum(nil)[:len(resolve.Digest{})]))
	return bulkAnswer{body: a.encoder.bytes(), secrets: a.encoder.count, stamp: a.stamp}
}
