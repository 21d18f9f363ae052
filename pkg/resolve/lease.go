package resolve

import (
	"context"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// Adopt tells what the store issued to an earlier process for req, at the given time, by somebody who still has the
// content. If it is alive, it is what Resolve returns from now on, in place of another that the store would have to issue.
// NotFound says that it is not; other errors are as for Resolve.
func (r *Resolver) Adopt(ctx context.Context, req Request, p providers.Payload, issued time.Time) error {
	if !req.Grant.Reads() {
		return ErrNotGranted
	}
	ref := req.Grant.Ref()
	in := r.installed(ref.Store)
	if in == nil {
		return &providers.Error{Store: ref.Store, Name: ref.Name, Kind: providers.Unavailable, Err: ErrStoreClosed}
	}
	k, err := in.keyOf(&req, false)
	if err != nil {
		return err
	}
	if in.leases == nil {
		return in.fail(k.Name, providers.Errorf(providers.NotFound, "the store issues nothing"))
	}
	ctx, cancel := context.WithTimeout(ctx, in.RequestTimeout)
	defer cancel()
	probe, err := in.limits.enter(ctx)
	if err != nil {
		return in.fail(k.Name, err)
	}
	defer in.limits.release()
	begun := time.Now()
	var failure *providers.Error
	if err := in.leases.Adopt(ctx, k, in.query(k, &req), p, issued); err != nil {
		failure = in.fail(k.Name, err)
	}
	in.limits.leave(probe, failure)
	in.metrics.called(failure, time.Since(begun))
	if failure != nil {
		return failure
	}
	in.log.Info("lease adopted", "secret", k.Name, "issued", issued)
	return nil
}

// Release tells that nobody needs any more what the store issued for req: the store is told to end it, in the background.
// What callers of the API got too is left to end by itself. It needs no grant that is still good: nothing is read.
func (r *Resolver) Release(req Request) {
	in := r.installed(req.Grant.Ref().Store)
	if in == nil || in.leases == nil || !req.Grant.Reads() {
		return
	}
	k, err := in.keyOf(&req, false)
	if err != nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.retired || in.leases.Handed(k) {
		return
	}
	if in.cache.drop(k) {
		in.advance()
	}
	q := in.query(k, &req)
	in.flying.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), in.RequestTimeout)
		defer cancel()
		if err := in.leases.Drop(ctx, k, q); err != nil {
			in.log.Warn("lease not revoked, it ends by itself", "secret", k.Name, "kind", providers.KindOf(err).String(), "err", err)
		}
	})
}

// Shared tells whether two reads are answered with the same.
func (r *Resolver) Shared(a, b Request) bool {
	ref := a.Grant.Ref()
	in := r.installed(ref.Store)
	if in == nil {
		return ref == b.Grant.Ref()
	}
	ka, errA := in.keyOf(&a, false)
	kb, errB := in.keyOf(&b, false)
	return errA == nil && errB == nil && ka == kb
}

// hand notes that a caller of the API has what was issued.
func (in *installation) hand(req *Request, a *answer) {
	if !a.payload.Issued || req.Origin != originAPI {
		return
	}
	if k, err := in.keyOf(req, false); err == nil && in.leases != nil {
		in.leases.Hand(k)
	}
}

// originAPI is the Origin of reads whose callers do not tell when they are done.
const originAPI = "api"
