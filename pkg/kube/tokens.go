package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

const (
	tokenLifetime = time.Hour       // that is asked for; the API server may give less or, to its own clients, more
	tokenReserve  = 5 * time.Minute // how long before its end a token is no longer given out, or a tenth of its life
)

// TokenRequester makes service-account tokens of pods of this node, with the agent's right to do so: for pods to which
// the kubelet brings none because they have no volume, or because the agent has just started. A token is bound to its
// pod, and ends with it. It is safe for concurrent use.
type TokenRequester struct {
	client  *Client
	pods    *Pods
	flights singleflight.Group

	mu     sync.Mutex
	issued map[tokenKey]issuedToken
}

type tokenKey struct{ podUID, audience string }

type issuedToken struct {
	value   secret.Value
	expires time.Time
	until   time.Time // given out no longer
}

// NewTokenRequester returns a TokenRequester. It starts nothing.
func NewTokenRequester(client *Client, pods *Pods) (*TokenRequester, error) {
	if client == nil || pods == nil {
		return nil, errors.New("token requester needs a Client and Pods")
	}
	return &TokenRequester{client: client, pods: pods, issued: map[tokenKey]issuedToken{}}, nil
}

// Tokens returns the tokens of an attested pod. They are made when one is wanted.
func (r *TokenRequester) Tokens(id scope.Identity) providers.TokenSource {
	return requestedTokens{requester: r, id: id}
}

type requestedTokens struct {
	requester *TokenRequester
	id        scope.Identity
}

// Token returns a token for audience, which is the API server's if it is empty, and when it expires. The error is Denied
// for a pod that is not a living one of this node, or of which the agent may not make tokens, and Unavailable if the API
// server gives none.
func (t requestedTokens) Token(ctx context.Context, audience string) (secret.Value, time.Time, error) {
	return t.requester.token(ctx, t.id, audience)
}

func (r *TokenRequester) token(ctx context.Context, id scope.Identity, audience string) (secret.Value, time.Time, error) {
	select {
	case <-r.pods.Ready():
	default:
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Unavailable, "the pods of this node are not known yet")
	}
	pod, ok := r.pods.Get(id.PodUID)
	if !ok || !pod.is(id) || pod.Ended {
		return secret.Value{}, time.Time{}, providers.Errorf(providers.Denied, "pod %s/%s is not a running pod of this node", id.Namespace, id.Pod)
	}
	k := tokenKey{podUID: id.PodUID, audience: audience}
	if t, ok := r.cached(k, time.Now()); ok {
		return t.value, t.expires, nil
	}
	flight := r.flights.DoChan(k.podUID+" "+k.audience, func() (any, error) {
		return r.request(context.WithoutCancel(ctx), id, k)
	})
	select {
	case done := <-flight:
		t, _ := done.Val.(issuedToken)
		return t.value, t.expires, done.Err
	case <-ctx.Done():
		return secret.Value{}, time.Time{}, ctx.Err()
	}
}

func (r *TokenRequester) cached(k tokenKey, now time.Time) (issuedToken, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.issued[k]
	return t, ok && now.Before(t.until)
}

// request asks the API server for a token. Source: Kubernetes, authentication.k8s.io/v1 TokenRequest.
func (r *TokenRequester) request(ctx context.Context, id scope.Identity, k tokenKey) (issuedToken, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	seconds := int64(tokenLifetime / time.Second)
	spec := authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: id.Pod, UID: types.UID(id.PodUID)},
	}
	if k.audience != "" {
		spec.Audiences = []string{k.audience}
	}
	var answer authenticationv1.TokenRequest
	err := r.client.core.Post().Namespace(id.Namespace).Resource("serviceaccounts").Name(id.ServiceAccount).SubResource("token").
		MaxRetries(0).Body(&authenticationv1.TokenRequest{Spec: spec}).Do(ctx).Into(&answer)
	switch {
	case apierrors.IsForbidden(err):
		return issuedToken{}, providers.Errorf(providers.Denied,
			"the agent may not make tokens of service accounts of namespace %q: see requestTokens of the chart", id.Namespace)
	case err != nil:
		return issuedToken{}, unavailable("request a token of the pod's service account", err)
	case answer.Status.Token == "":
		return issuedToken{}, providers.Errorf(providers.Unavailable, "the API server gave an empty token")
	}
	now, expires := time.Now(), answer.Status.ExpirationTimestamp.Time
	t := issuedToken{
		value:   secret.FromString(answer.Status.Token),
		expires: expires,
		until:   expires.Add(-min(tokenReserve, expires.Sub(now)/10)),
	}
	r.keep(k, t, now)
	return t, nil
}

// keep remembers a token, and forgets those of pods that are gone and those that have had their time.
func (r *TokenRequester) keep(k tokenKey, t issuedToken, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, old := range r.issued {
		if _, ok := r.pods.Get(other.podUID); !ok || !now.Before(old.until) {
			delete(r.issued, other)
		}
	}
	r.issued[k] = t
}
