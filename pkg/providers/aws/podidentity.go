package aws

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// EKS Pod Identity: AWS' own agent on each node of an EKS cluster exchanges the token of a pod for credentials of the role
// that is associated with its service account. Only that agent may ask EKS for them, with the rights of the node; everyone
// on the node, also in its own network, asks the agent. Source: https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html.
const (
	podIdentityEndpoint = "http://169.254.170.23/v1/credentials"
	podIdentityAudience = "pods.eks.amazonaws.com"
	podIdentityAction   = "eks-auth:AssumeRoleForPodIdentity"
)

// associated exchanges the token of q's pod for credentials of the role that EKS associates with its service account.
func (s *sessions[S]) associated(ctx context.Context, q providers.Query) (session S, expires time.Time, _ error) {
	token, err := exchange.Token(ctx, q, s.audience)
	if err != nil {
		return session, expires, err
	}
	given, err := endpointcreds.New(s.podIdentityEndpoint, func(o *endpointcreds.Options) {
		o.HTTPClient, o.Retryer, o.AuthorizationToken = s.direct, aws.NopRetryer{}, token
	}).Retrieve(ctx)
	if err != nil {
		return session, expires, notAssociated(ctx, q.Caller, err)
	}
	if !given.HasKeys() || !given.CanExpire {
		return session, expires, providers.Errorf(providers.Unavailable, "%s: no credentials in the answer", podIdentityAction)
	}
	return s.make(fixed(given)), given.Expires, nil
}

// notAssociated maps what the agent of the node answers, of which only the status is repeated.
func notAssociated(ctx context.Context, caller providers.Caller, err error) error {
	answer, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err)
	if !ok || ctx.Err() != nil {
		return failed(ctx, podIdentityAction, "", err)
	}
	switch status := answer.HTTPStatusCode(); {
	case status >= http.StatusInternalServerError:
		return providers.Errorf(providers.Unavailable, "%s: the node's EKS Pod Identity Agent answered %d", podIdentityAction, status)
	case status == http.StatusTooManyRequests:
		return providers.Errorf(providers.Throttled, "%s: the node's EKS Pod Identity Agent answered %d", podIdentityAction, status)
	default:
		return providers.Errorf(providers.Denied, "%s: the node's EKS Pod Identity Agent answered %d: associate a role with service account %s/%s; the agent's log says more",
			podIdentityAction, status, caller.Namespace, caller.ServiceAccount)
	}
}

// pastProxy returns a client for what is on the node itself.
func pastProxy(t *http.Transport) *http.Client {
	direct := t.Clone()
	direct.Proxy, direct.DisableKeepAlives = nil, true // it is asked once an hour
	return &http.Client{Transport: direct, CheckRedirect: connect.NeverFollow}
}
