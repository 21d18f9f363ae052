package kubernetes

import (
	"context"
	"fmt"
	"net/http"

	"github.com/keywell/keywell/pkg/providers"
)

var errBadToken = fmt.Errorf("%w by the API server: it has expired, or the pod is gone", providers.ErrBadToken)

// missing is Dapr's text for a secret that is not there, which is the API server's.
func missing(name string) *providers.Error {
	return providers.Errorf(providers.NotFound, "secrets %q not found", name)
}

// refusal maps an answer that is no success. The API server's own words are not repeated.
func refusal(r request, code int, header http.Header) *providers.Error {
	switch {
	case code == http.StatusNotFound:
		return missing(r.name)
	case code == http.StatusForbidden:
		return providers.Errorf(providers.Denied, "service account %s/%s may not %s: grant it that verb with a Role and a RoleBinding in namespace %q",
			r.callerNamespace, r.account, r.act(), r.namespace)
	case code == http.StatusUnauthorized:
		// Not Unavailable: one pod's bad token says nothing about the store that others read from.
		return providers.Errorf(providers.Denied, "service account %s/%s: %w", r.callerNamespace, r.account, errBadToken)
	case code == http.StatusTooManyRequests:
		err := providers.Errorf(providers.Throttled, "the API server asks for fewer requests")
		err.RetryAfter = providers.RetryAfterOf(header)
		return err
	case code == http.StatusGone:
		return providers.Errorf(providers.Unavailable, "the API server does not know this state of the namespace any more")
	case code >= 400 && code < 500:
		return providers.Errorf(providers.Invalid, "the API server answered %s", status(code))
	default:
		err := providers.Errorf(providers.Unavailable, "the API server answered %s", status(code))
		err.RetryAfter = providers.RetryAfterOf(header)
		return err
	}
}

func status(code int) string { return fmt.Sprintf("%d %s", code, http.StatusText(code)) }

// act says what r asks for, in the words of RBAC.
func (r request) act() string {
	switch {
	case r.query.Has("watch"):
		return "watch secrets"
	case r.name == "":
		return "list secrets"
	default:
		return fmt.Sprintf("get secrets %q", r.name)
	}
}

// noToken maps the error of a token source. An expired token is the pod's fault, not the store's; see refusal.
func noToken(err error) error {
	if providers.KindOf(err) == providers.Unavailable {
		return providers.Errorf(providers.Denied, "%w: %w", providers.ErrBadToken, err)
	}
	return err
}

// unreachable maps an error of the connection.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "wait for the API server: %w", ctx.Err())
	}
	return providers.Errorf(providers.Unavailable, "reach the API server: %w", err)
}

// cutOff is for an answer that ends too early or is no JSON.
func cutOff(ctx context.Context) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "read the API server's answer: %w", ctx.Err())
	}
	return providers.Errorf(providers.Unavailable, "the API server's answer is cut off or malformed")
}
