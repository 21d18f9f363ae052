package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// DefaultAudience is the audience of tokens that are meant for the agent.
const DefaultAudience = "keywell"

const (
	acceptedFor = time.Minute     // how long an identity is given without asking again
	refusedFor  = 5 * time.Second // how long a refusal by the API server is remembered
	maxAccepted = 4096            // tokens remembered as accepted
	maxRefused  = 1024            // tokens remembered as refused
	maxReviews  = 4               // under way for tokens that say to be of one pod
)

// What a review says about the pod that a token is bound to. Source: Kubernetes, pkg/serviceaccount/util.go.
const (
	podNameExtra  = "authentication.kubernetes.io/pod-name"
	podUIDExtra   = "authentication.kubernetes.io/pod-uid"
	nodeNameExtra = "authentication.kubernetes.io/node-name"
	userPrefix    = "system:serviceaccount:"
)

// RefusedError is returned for a caller of whom it is not proven which pod of this node it is. Its text is the same for
// every reason, so that a caller can't learn from it; the reason is for the log, where slog shows it.
type RefusedError struct{ Reason string }

// Error returns one text for every reason.
func (*RefusedError) Error() string { return "the caller is not accepted" }

// LogValue returns the text with the reason.
func (e *RefusedError) LogValue() slog.Value { return slog.StringValue(e.Error() + ": " + e.Reason) }

func refused(format string, args ...any) *RefusedError {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// ReviewerOptions configure a TokenReviewer.
type ReviewerOptions struct {
	Client     *Client               // required
	Pods       *Pods                 // required
	Audience   string                // default DefaultAudience
	Registerer prometheus.Registerer // nil: none
}

// TokenReviewer tells whose service-account token it is. It is safe for concurrent use.
type TokenReviewer struct {
	client   *Client
	pods     *Pods
	audience string
	results  *prometheus.CounterVec
	flights  singleflight.Group

	accepted *memory[scope.Identity] // without app id
	refused  *memory[*RefusedError]

	reviews struct { // under way
		sync.Mutex
		byPod map[string]int // pod UID → number
	}
}

// NewTokenReviewer returns a TokenReviewer. It starts nothing.
func NewTokenReviewer(opts ReviewerOptions) (*TokenReviewer, error) {
	if opts.Client == nil || opts.Pods == nil {
		return nil, errors.New("token reviewer needs a Client and Pods")
	}
	r := &TokenReviewer{
		client:   opts.Client,
		pods:     opts.Pods,
		audience: cmp.Or(opts.Audience, DefaultAudience),
		results: promauto.With(opts.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_kube_attestations_total",
			Help: "Service-account tokens that callers presented, by result: cached, reviewed, refused, unavailable.",
		}, []string{"result"}),
		accepted: newMemory[scope.Identity](maxAccepted),
		refused:  newMemory[*RefusedError](maxRefused),
	}
	r.reviews.byPod = map[string]int{}
	return r, nil
}

// Attest returns the identity of the pod that token is bound to, with the app id of the pod's annotation. The error is
// a *RefusedError for a token that is not good, and of Kind Unavailable where that could not be found out.
func (r *TokenReviewer) Attest(ctx context.Context, token secret.Value) (scope.Identity, error) {
	hash := token.Digest()
	now := time.Now()
	if id, ok := r.accepted.get(hash, now); ok {
		return r.answer("cached", id, nil)
	}
	if refusal, ok := r.refused.get(hash, now); ok {
		return r.answer("", scope.Identity{}, refusal)
	}
	c, err := r.plausible(token, now)
	if err != nil {
		return r.answer("", scope.Identity{}, err)
	}
	review := r.flights.DoChan(string(hash[:]), func() (any, error) {
		if id, ok := r.accepted.get(hash, time.Now()); ok { // by a flight that has ended since it was looked for
			return id, nil
		}
		if !r.enter(c.podUID) {
			return scope.Identity{}, providers.Errorf(providers.Unavailable, "%d other tokens of the pod are being reviewed", maxReviews)
		}
		defer r.leave(c.podUID)
		return r.review(context.WithoutCancel(ctx), token, hash, c.expires)
	})
	select {
	case result := <-review:
		id, _ := result.Val.(scope.Identity)
		return r.answer("reviewed", id, result.Err)
	case <-ctx.Done():
		return scope.Identity{}, ctx.Err()
	}
}

// answer checks that the pod of an accepted token is still there, adds what its annotations say, and counts.
func (r *TokenReviewer) answer(result string, id scope.Identity, err error) (scope.Identity, error) {
	if err == nil {
		id, err = r.alive(id)
	}
	if _, no := errors.AsType[*RefusedError](err); no {
		result = "refused"
	} else if err != nil {
		result = "unavailable"
	}
	r.results.WithLabelValues(result).Inc()
	if err != nil {
		return scope.Identity{}, err
	}
	return id, nil
}

// alive returns the identity of the pod that id is, if it is one of this node that exists and has not ended.
func (r *TokenReviewer) alive(id scope.Identity) (scope.Identity, error) {
	pod, ok := r.pods.Get(id.PodUID)
	switch {
	case !ok:
		return scope.Identity{}, refused("it is bound to a pod that is gone or not on this node")
	case !pod.is(id):
		return scope.Identity{}, refused("it is bound to pod %s/%s as %q, which is not what the pod with that UID is", id.Namespace, id.Pod, id.ServiceAccount)
	case pod.Ended:
		return scope.Identity{}, refused("it is bound to pod %s/%s, which has ended", id.Namespace, id.Pod)
	default:
		return pod.identity(), nil
	}
}

// plausible refuses what can't be good without asking the API server, so that a flood of wrong tokens stays here.
func (r *TokenReviewer) plausible(token secret.Value, now time.Time) (claims, error) {
	select {
	case <-r.pods.Ready():
	default:
		return claims{}, providers.Errorf(providers.Unavailable, "the pods of this node are not known yet")
	}
	c, ok := parseClaims(token)
	switch {
	case !ok:
		return c, refused("it is no service-account token")
	case c.podUID == "":
		return c, refused("it is not bound to a pod")
	case !c.expires.IsZero() && !now.Before(c.expires):
		return c, refused("it expired at %s", c.expires.UTC().Format(time.RFC3339))
	}
	if _, ok := r.pods.Get(c.podUID); !ok {
		return c, refused("it is bound to a pod that is gone or not on this node")
	}
	return c, nil
}

// enter tells whether another review may be made for a pod. A pod that sends forged tokens, which have to name a pod of
// this node, keeps itself waiting and nobody else.
func (r *TokenReviewer) enter(podUID string) bool {
	r.reviews.Lock()
	defer r.reviews.Unlock()
	if r.reviews.byPod[podUID] == maxReviews {
		return false
	}
	r.reviews.byPod[podUID]++
	return true
}

func (r *TokenReviewer) leave(podUID string) {
	r.reviews.Lock()
	defer r.reviews.Unlock()
	if r.reviews.byPod[podUID]--; r.reviews.byPod[podUID] == 0 {
		delete(r.reviews.byPod, podUID)
	}
}

// review asks the API server and remembers the answer.
func (r *TokenReviewer) review(ctx context.Context, token secret.Value, hash [sha256.Size]byte, expires time.Time) (scope.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	asked := time.Now()
	var review authenticationv1.TokenReview
	err := r.client.authentication.Post().Resource("tokenreviews").MaxRetries(0).Body(&authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: string(token.Reveal()), Audiences: []string{r.audience}},
	}).Do(ctx).Into(&review)
	if err != nil {
		return scope.Identity{}, unavailable("review a service-account token", err)
	}
	id, refusal := r.judge(review.Status)
	if refusal != nil {
		r.refused.put(hash, refusal, asked, asked.Add(refusedFor))
		return scope.Identity{}, refusal
	}
	until := asked.Add(acceptedFor)
	if !expires.IsZero() && expires.Before(until) {
		until = expires
	}
	r.accepted.put(hash, id, asked, until)
	return id, nil
}

// judge returns the identity that a review proves.
func (r *TokenReviewer) judge(s authenticationv1.TokenReviewStatus) (scope.Identity, *RefusedError) {
	namespace, account, ok := strings.Cut(strings.TrimPrefix(s.User.Username, userPrefix), ":")
	pod, uid, node := one(s.User.Extra[podNameExtra]), one(s.User.Extra[podUIDExtra]), one(s.User.Extra[nodeNameExtra])
	switch {
	case !s.Authenticated:
		return scope.Identity{}, refused("the API server does not accept it for audience %q", r.audience)
	case !slices.Contains(s.Audiences, r.audience):
		return scope.Identity{}, refused("it is for audience %q, not %q", s.Audiences, r.audience)
	case !strings.HasPrefix(s.User.Username, userPrefix) || !ok:
		return scope.Identity{}, refused("it is of user %q, which is no service account", s.User.Username)
	case pod == "" || uid == "":
		return scope.Identity{}, refused("it is not bound to a pod")
	case node != "" && node != r.pods.opts.Node:
		return scope.Identity{}, refused("it is bound to a pod of node %q", node)
	}
	return scope.Identity{Namespace: namespace, ServiceAccount: account, Pod: pod, PodUID: uid}, nil
}

// one returns the only value, or nothing.
func one(values authenticationv1.ExtraValue) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

// unavailable returns why the API server did not do what was asked. Its own words are left out: they may repeat what
// was sent.
func unavailable(act string, err error) error {
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		s := status.Status()
		if s.Reason == metav1.StatusReasonForbidden {
			return providers.Errorf(providers.Unavailable, "%s: the agent's service account may not; grant it what the chart grants", act)
		}
		return providers.Errorf(providers.Unavailable, "%s: the API server answered %d %s", act, s.Code, s.Reason)
	}
	return providers.Errorf(providers.Unavailable, "%s: %w", act, err)
}
