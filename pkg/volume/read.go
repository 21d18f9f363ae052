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
	// minInterval keeps a secret that has expired from being read without pause.
	minInterval = time.Second
)

// reading is what it takes to read a volume's secrets.
type reading struct {
	spec   Spec
	record record
	tokens providers.TokenSource
	origin string
	maxAge time.Duration // 0: as the stores say
}

// content is what a volume should hold, as of now.
type content struct {
	files    []File
	interval time.Duration // until it should be read again
	notAfter time.Time     // when the first secret expires; zero: never
	stale    string        // says which secret its store could not confirm; empty: none
}

// read authorises every item, and only then reads the secrets and lays them out.
func (s *Set) read(ctx context.Context, rd reading) (content, error) {
	grants, err := s.authorise(ctx, rd)
	if err != nil {
		return content{}, err
	}
	results := make([]*resolve.Result, len(grants))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentReads)
	for i, grant := range grants {
		req := resolve.Request{Grant: grant, Tokens: rd.tokens, MaxAge: rd.maxAge, Origin: rd.origin}
		if result, ok := s.opts.Resolver.Cached(ctx, req); ok {
			results[i] = &result
			continue
		}
		group.Go(func() error {
			result, err := s.opts.Resolver.Resolve(ctx, req)
			switch {
			case err == nil:
				results[i] = &result
			case rd.spec.Items[i].Optional && providers.KindOf(err) == providers.NotFound:
			default:
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return content{}, err
	}
	return rd.spec.content(results)
}

// authorise asks the policy for every item, and tells the audit trail of each that is refused.
func (s *Set) authorise(ctx context.Context, rd reading) ([]scope.Grant, error) {
	var denied error
	grants := make([]scope.Grant, len(rd.spec.Items))
	for i, it := range rd.spec.Items {
		grant, err := s.opts.Authorizer.Authorize(rd.record.Identity, it.Ref)
		if err != nil {
			s.opts.Denied(ctx, Denial{VolumeID: rd.record.ID, Identity: rd.record.Identity, Ref: it.Ref, Origin: rd.origin, Err: err})
			denied = alsoDenied(denied, fmt.Errorf("%s: %w", it, err))
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

// content projects results, nil for optional secrets that do not exist.
func (s Spec) content(results []*resolve.Result) (content, error) {
	c := content{interval: s.RefreshInterval}
	payloads := make([]*providers.Payload, len(results))
	for i, r := range results {
		if r == nil {
			continue
		}
		payloads[i] = &r.Payload
		if r.Stale {
			c.stale = fmt.Sprintf("%s was last confirmed at %s", s.Items[i], r.FetchedAt.UTC().Format(time.RFC3339))
		}
		if s.RefreshInterval == 0 && r.RefreshInterval > 0 && (c.interval == 0 || r.RefreshInterval < c.interval) {
			c.interval = r.RefreshInterval
		}
		for _, end := range ends(r) {
			if c.notAfter.IsZero() || end.Before(c.notAfter) {
				c.notAfter = end
			}
		}
	}
	if c.interval == 0 {
		c.interval = defaultInterval
	}
	var err error
	c.files, err = s.Project(payloads)
	return c, err
}

// ends are the times at which a secret ceases to be valid.
func ends(r *resolve.Result) (all []time.Time) {
	if !r.NotAfter.IsZero() {
		all = append(all, r.NotAfter)
	}
	if r.Lease != nil {
		all = append(all, r.FetchedAt.Add(r.Lease.Duration))
	}
	return all
}

// due is when to read again: after the interval, or earlier when two thirds of the time that the first secret is still
// valid have passed.
func (c content) due(now time.Time) time.Time {
	wait := c.interval
	if !c.notAfter.IsZero() {
		wait = min(wait, c.notAfter.Sub(now)*2/3)
	}
	return now.Add(max(wait, minInterval))
}

// condition says that a secret is stale, if one is.
func (c content) condition() Condition {
	return Condition{Abnormal: c.stale != "", Message: c.stale}
}
