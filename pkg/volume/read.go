package volume

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// On whose behalf a volume reads, for the audit trail; see resolve.Request.
const (
	originVolume   = "volume"
	originRotation = "rotation"
)

const (
	// concurrentReads is how many of a volume's secrets are read at one time.
	concurrentReads = 8
	// defaultInterval is for stores that do not say how often to read again.
	defaultInterval = time.Minute
	// minInterval is for a volume that can't be rotated.
	minInterval = time.Second
	// settled is how long after a store has replaced a secret by itself it is read: not before the store has done it.
	settled = 500 * time.Millisecond
	// minRenewal keeps a secret that has expired, or soon does, from being read without pause.
	minRenewal = 10 * time.Second
)

// reading is what it takes to read a volume's secrets.
type reading struct {
	spec   Spec
	record record
	tokens providers.TokenSource
	origin string
	maxAge time.Duration // 0: as the stores say
	parts  map[int]bool  // sources that are read apart from other volumes; see volume.parts
}

// content is what a volume should hold, as of now.
type content struct {
	files  []File
	due    time.Time     // when it should be read again
	maxAge time.Duration // of the answers that will do then
	stale  string        // says which secret its store could not confirm; empty: none
	held   []held        // what was issued among the secrets
}

// read authorises every secret of every item, and only then reads them and lays them out.
func (s *Set) read(ctx context.Context, rd reading) (content, error) {
	sources := rd.spec.Sources()
	grants, err := s.authorise(ctx, rd, sources)
	if err != nil {
		return content{}, err
	}
	requests := make([]resolve.Request, len(grants))
	results := make([]*resolve.Result, len(grants))
	cached := make([]resolve.Result, len(grants))
	complete := true
	for i, grant := range grants {
		requests[i] = rd.request(i, sources[i], grant)
		var ok bool
		if cached[i], ok = s.opts.Resolver.Cached(ctx, requests[i]); ok {
			results[i] = &cached[i]
		}
		complete = complete && ok
	}
	if !complete {
		if err := s.resolve(ctx, sources, requests, results); err != nil {
			return content{}, err
		}
	}
	c, err := rd.spec.content(sources, results)
	c.held = heldOf(requests, results)
	return c, err
}

// request is how a secret is read.
func (rd reading) request(i int, source Source, grant scope.Grant) resolve.Request {
	req := resolve.Request{Grant: grant, Metadata: source.Parameters, Tokens: rd.tokens, MaxAge: rd.maxAge, Origin: rd.origin}
	if source.Own || rd.parts[i] {
		req.Own = rd.record.ID
	}
	return req
}

// resolve fills in the results that are missing. An optional secret that does not exist stays nil.
func (s *Set) resolve(ctx context.Context, sources []Source, requests []resolve.Request, results []*resolve.Result) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentReads)
	for i, req := range requests {
		if results[i] != nil {
			continue
		}
		group.Go(func() error {
			result, err := s.opts.Resolver.Resolve(ctx, req)
			switch {
			case err == nil:
				results[i] = &result
			case sources[i].Optional && providers.KindOf(err) == providers.NotFound:
			default:
				return err
			}
			return nil
		})
	}
	return group.Wait()
}

// authorise asks the policy for every secret, and tells the audit trail of each that is refused.
func (s *Set) authorise(ctx context.Context, rd reading, sources []Source) ([]scope.Grant, error) {
	var denied error
	grants := make([]scope.Grant, len(sources))
	for i, source := range sources {
		grant, err := s.opts.Authorizer.Authorize(rd.record.Identity, source.Ref)
		if err != nil {
			s.opts.Denied(ctx, Denial{VolumeID: rd.record.ID, Identity: rd.record.Identity, Ref: source.Ref, Origin: rd.origin, Err: err})
			denied = alsoDenied(denied, fmt.Errorf("%s: %w", source, err))
		}
		grants[i] = grant
	}
	return grants, denied
}

// alsoDenied joins two errors on one line.
func alsoDenied(denied, err error) error {
	if denied == nil {
		return err
	}
	return fmt.Errorf("%w; %w", denied, err)
}

// content projects results, those of sources, nil for optional secrets that do not exist.
func (s Spec) content(sources []Source, results []*resolve.Result) (content, error) {
	c := content{}
	c.schedule(s.interval(results), results)
	payloads := make([]*providers.Payload, len(results))
	for i, r := range results {
		if r == nil {
			continue
		}
		payloads[i] = &r.Payload
		if r.Stale {
			c.stale = fmt.Sprintf("%s was last confirmed at %s", sources[i], r.FetchedAt.UTC().Format(time.RFC3339))
		}
	}
	var err error
	c.files, err = s.Project(payloads)
	return c, err
}

// interval is how often to read: as the volume says, or as the most impatient store does.
func (s Spec) interval(results []*resolve.Result) time.Duration {
	interval := s.RefreshInterval
	for _, r := range results {
		if r != nil && s.RefreshInterval == 0 && r.RefreshInterval > 0 && (interval == 0 || r.RefreshInterval < interval) {
			interval = r.RefreshInterval
		}
	}
	if interval == 0 {
		return defaultInterval
	}
	return interval
}

// schedule says when to read again: after the interval, or earlier, when two thirds of a secret's life have passed, and when
// one ends that the store itself replaces.
// The reader has to insist on an answer that is younger than the one at hand, or it gets the same until that expires.
func (c *content) schedule(interval time.Duration, results []*resolve.Result) {
	now := time.Now()
	age := interval
	c.due = now.Add(interval)
	for _, r := range results {
		life, ends := lifetime(r)
		if !ends {
			continue
		}
		renewal, soonest := max(life*2/3, minRenewal), minRenewal
		if end := r.NotAfter.Add(settled).Sub(now); !r.Issued && r.Lease == nil && end > 3*settled { // then the store has another
			renewal, soonest = min(renewal, life+settled), min(soonest, end)
		}
		age = min(age, renewal)
		if wait := max(r.FetchedAt.Add(renewal).Sub(now), soonest); now.Add(wait).Before(c.due) {
			c.due = now.Add(wait)
		}
	}
	c.maxAge = youngerThan(age)
}

// youngerThan leaves room for the scheduler, which may be early by up to a tenth.
func youngerThan(age time.Duration) time.Duration { return age * 9 / 10 }

// lifetime is how long a secret is valid from when it was read, and false if it does not cease to be.
func lifetime(r *resolve.Result) (life time.Duration, ends bool) {
	if r == nil {
		return 0, false
	}
	if !r.NotAfter.IsZero() {
		life, ends = r.NotAfter.Sub(r.FetchedAt), true
	}
	if r.Lease != nil && (!ends || r.Lease.Duration < life) {
		life, ends = r.Lease.Duration, true
	}
	return life, ends
}

// condition says that a secret is stale, if one is.
func (c content) condition() Condition {
	return Condition{Abnormal: c.stale != "", Message: c.stale}
}
