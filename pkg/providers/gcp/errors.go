package gcp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds maps the codes of Secret Manager. Source: https://cloud.google.com/apis/design/errors.
var kinds = map[codes.Code]providers.Kind{
	codes.NotFound:           providers.NotFound,
	codes.FailedPrecondition: providers.NotFound, // the version is disabled or destroyed: there is nothing to read
	codes.PermissionDenied:   providers.Denied,
	codes.Unauthenticated:    providers.Denied,
	codes.ResourceExhausted:  providers.Throttled,
	codes.InvalidArgument:    providers.Invalid,
	codes.OutOfRange:         providers.Invalid,
	codes.Unimplemented:      providers.Invalid,
}

// reasons says in our words what the codes mean.
var reasons = map[codes.Code]string{
	codes.NotFound:           "there is none",
	codes.FailedPrecondition: "the version is disabled or destroyed",
	codes.PermissionDenied:   "IAM does not allow it (or there is none)",
	codes.Unauthenticated:    "the credentials are not accepted",
	codes.ResourceExhausted:  "the quota is used up",
}

// failed maps an error of a call that is about what. Google's own words are not repeated.
func failed(ctx context.Context, what string, err error) error {
	if status.Code(err) == codes.DeadlineExceeded { // the server, which knows the deadline too, may be first by a moment
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < time.Second {
			<-ctx.Done()
		}
	}
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: wait for Secret Manager: %w", what, ctx.Err())
	}
	if e, ok := errors.AsType[*providers.Error](err); ok {
		return e
	}
	st := status.Convert(err)
	kind, listed := kinds[st.Code()]
	if !listed {
		kind = providers.Unavailable
	}
	reason := reasons[st.Code()]
	if reason == "" {
		reason = "Secret Manager answered " + st.Code().String()
	}
	mapped := providers.Errorf(kind, "%s: %s", what, reason)
	for _, detail := range st.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && retry.GetRetryDelay() != nil {
			mapped.RetryAfter = retry.GetRetryDelay().AsDuration()
		}
	}
	return mapped
}

// failedLogin maps an error on the way to a token. The library's errors hold whole answers.
func failedLogin(ctx context.Context, caller providers.Caller, email string, err error) error {
	act := "log in to Google Cloud"
	if caller.ServiceAccount != "" {
		act += " as service account " + caller.Namespace + "/" + caller.ServiceAccount
	}
	if email != "" {
		act += " (" + email + ")"
	}
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, ctx.Err())
	}
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		return refusedLogin(act, e.Response)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	return providers.Errorf(providers.Unavailable, "%s: no usable answer", act)
}

func refusedLogin(act string, resp *http.Response) error {
	var mapped *providers.Error
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		mapped = providers.Errorf(providers.Throttled, "%s: Google asks for fewer requests", act)
	case code >= 500:
		mapped = providers.Errorf(providers.Unavailable, "%s: Google answered %d", act, code)
	default:
		return providers.Errorf(providers.Denied, "%s: Google refuses it (%d)", act, code)
	}
	mapped.RetryAfter = providers.RetryAfterOf(resp.Header)
	return mapped
}
