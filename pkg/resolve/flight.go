package resolve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// retryPause is the middle of the pause before the one retry of a call that found the store unavailable. The pause is
// between half and one and a half times as long, so that nodes which failed together do not come back together.
const retryPause = 100 * time.Millisecond

// flight is one question to the store, for all readers that want its answer. A key has at most one flight with a call
// under way and one that waits for that to end.
type flight struct {
	key   key
	after <-chan struct{} // the end of the flight before; nil if there is none

	begun    bool // the store is being asked: what it says may be older than what happens from now on
	outdated bool // the secret changed after that

	known *answer // content that the cache had when the call began and that need not be transferred again; nil: none

	done   chan struct{} // closed when answer or err is set
	answer *answer
	err    *providers.Error
}

// joinable tells whether a reader that comes now may share the answer. One that wants a fresh answer, or comes after a
// change was announced, needs a call that has not begun yet: one under way may have read before the change.
func (f *flight) joinable(fresh bool) bool { return !f.begun || !fresh && !f.outdated }

// launch starts a flight for k that calls the store when the one before it has ended. The caller holds in.mu.
func (in *installation) launch(ctx context.Context, k key, req *Request, before *flight) *flight {
	f := &flight{key: k, done: make(chan struct{})}
	if before != nil {
		f.after = before.done
	}
	in.flights[k] = f
	q := in.query(k, req)
	ctx = context.WithoutCancel(ctx) // the flight goes on for the others when the first reader gives up
	in.flying.Go(func() { in.fly(ctx, f, q) })
	return f
}

// query is what the store is asked for k on behalf of req.
func (in *installation) query(k key, req *Request) providers.Query {
	q := providers.Query{Name: k.Name, Version: k.Version, Stage: k.Stage, Namespace: k.Namespace, Metadata: req.Metadata}
	if in.PerIdentity { // elsewhere the answer is shared with other callers, so it must not depend on this one
		id := req.Grant.Identity()
		q.Tokens = req.Tokens
		q.Caller = providers.Caller{Namespace: id.Namespace, ServiceAccount: id.ServiceAccount, Pod: id.Pod, PodUID: id.PodUID}
	}
	return q
}

// fly asks the store within RequestTimeout and lands. The time starts when it is this flight's turn.
func (in *installation) fly(ctx context.Context, f *flight, q providers.Query) {
	if f.after != nil {
		<-f.after
	}
	ctx, cancel := context.WithTimeout(ctx, in.RequestTimeout)
	defer cancel()
	a, err := in.ask(ctx, f, q)
	in.land(f, a, err)
}

// ask calls the store, twice if it was unavailable the first time, time is left and the limits allow it.
func (in *installation) ask(ctx context.Context, f *flight, q providers.Query) (*answer, *providers.Error) {
	probe, err := in.admit(ctx, f)
	if err != nil {
		return nil, err
	}
	a, err := in.call(ctx, f, q, probe)
	if err == nil || !broken(err.Kind) || in.limits.refusal(time.Now()) != nil || !pause(ctx, jitter(retryPause)) {
		return a, err
	}
	if probe, refusal := in.admit(ctx, f); refusal == nil {
		in.log.Debug("retrying", "secret", f.key.Name, "err", err)
		return in.call(ctx, f, q, probe)
	}
	return nil, err
}

// admit waits for the limits and marks the flight as begun. A call must follow, which takes probe.
func (in *installation) admit(ctx context.Context, f *flight) (probe bool, _ *providers.Error) {
	probe, err := in.limits.enter(ctx)
	if err != nil {
		return false, in.fail(f.key.Name, err)
	}
	in.mu.Lock()
	f.begun = true
	f.known = in.known(f.key, time.Now())
	in.mu.Unlock()
	return probe, nil
}

// response is what a provider returned.
type response struct {
	payload providers.Payload
	names   []string
	err     error
}

// call asks the provider once and returns when it answered or ctx ended, whichever is first. A provider that ignores
// its deadline keeps its slot in the limits until it returns; its late answer is thrown away.
func (in *installation) call(ctx context.Context, f *flight, q providers.Query, probe bool) (*answer, *providers.Error) {
	begun := time.Now()
	if f.known != nil {
		q.Known = f.known.payload.Version
	}
	responses := make(chan response, 1)
	go func() {
		defer in.limits.release()
		responses <- in.invoke(ctx, f.key, q)
	}()
	var resp response
	select {
	case resp = <-responses:
	case <-ctx.Done():
		resp.err = fmt.Errorf("no answer within %v: %w", in.RequestTimeout, ctx.Err())
	}
	if resp.err == nil && resp.payload.Unchanged && f.known == nil {
		resp.err = errors.New("the provider calls content unchanged that it has never returned")
	}
	var failure *providers.Error
	if resp.err != nil {
		failure = in.fail(f.key.Name, resp.err)
	}
	in.limits.leave(probe, failure)
	in.metrics.called(failure, time.Since(begun))

	switch {
	case failure == nil && resp.payload.Unchanged:
		return f.known.confirmed(resp.payload, begun), nil
	case failure == nil:
		return &answer{payload: resp.payload, names: resp.names, digest: in.digests.of(resp.payload.Fields), fetched: begun, transferred: begun}, nil
	case !aboutReader(failure) && (failure.Kind == providers.NotFound || failure.Kind == providers.Denied):
		return &answer{refusal: failure, fetched: begun}, nil
	default:
		return nil, failure
	}
}

// invoke turns a panic of the provider into an error. What it panicked with may hold a secret and is not shown.
func (in *installation) invoke(ctx context.Context, k key, q providers.Query) (resp response) {
	defer func() {
		if p := recover(); p != nil {
			in.log.Error("provider panicked", "secret", q.Name, "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			resp = response{err: errors.New("provider panicked")}
		}
	}()
	switch {
	case k.list:
		resp.names, resp.err = in.provider.(providers.Lister).List(ctx, q)
	case in.leases != nil:
		resp.payload, resp.err = in.leases.Fetch(ctx, k, q)
	default:
		resp.payload, resp.err = in.provider.Fetch(ctx, q)
	}
	return resp
}

// land keeps what the flight brought, announces a change and wakes the readers, in this order. Refusals replace what was
// cached: a secret that was deleted or withdrawn is never served as stale. Invalid only removes it. Any other failure,
// and one that is about the reader, leaves it.
func (in *installation) land(f *flight, a *answer, err *providers.Error) {
	var changed, warn bool
	in.mu.Lock()
	switch {
	case a != nil:
		var lost bool
		changed, lost = in.cache.put(f.key, a, f.outdated)
		if changed || lost {
			in.advance()
		}
	case aboutReader(err):
	case !passing(err.Kind):
		if changed = in.cache.drop(f.key); changed {
			in.advance()
		}
	default:
		if e := in.cache.get(f.key); e != nil && !e.failing && in.servable(e.answer, time.Now()) {
			e.failing, warn = true, true
		}
	}
	if in.flights[f.key] == f {
		delete(in.flights, f.key)
	}
	in.mu.Unlock()

	if warn {
		in.log.Warn("refresh failed, serving the last good answer", "secret", f.key.Name, "kind", err.Kind.String(), "err", err)
	}
	if changed {
		in.changed(in.name, f.key.Name)
	}
	f.answer, f.err = a, err
	close(f.done)
}

// aboutReader tells whether a failure is about the token of the one reader whose flight it was. It says nothing about the
// secret then, nor about other readers: pods of one service account share answers, and one of them may be ending.
func aboutReader(err error) bool {
	return errors.Is(err, providers.ErrNoTokens) || errors.Is(err, providers.ErrBadToken)
}

// pause waits for d and reports false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter returns a duration between half and one and a half of d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
