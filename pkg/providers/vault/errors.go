package vault

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/hashicorp/vault/api"

	"github.com/keywell/keywell/pkg/providers"
)

// The statuses that Vault gives a meaning of its own, see https://developer.hashicorp.com/vault/api-docs#http-status-codes
// and .../system/health.
const (
	statusStandby     = 473 // performance standby, or a standby that does not forward
	statusDRSecondary = 472
)

// failure maps what came of r to an error with a Kind. Vault's own text is left out: it quotes what it was sent.
func failure(ctx context.Context, r request, resp *api.Response, err error) error {
	if ctx.Err() != nil {
		return ended(ctx, r)
	}
	if resp == nil || resp.Response == nil {
		if e, ok := errors.AsType[*url.Error](err); ok { // says the URL again
			err = e.Err
		}
		return providers.Errorf(providers.Unavailable, "%s: %w", r, err)
	}
	e := kindOf(resp.Response)
	return &providers.Error{
		Kind: e.kind, RetryAfter: providers.RetryAfterOf(resp.Header),
		Err: &statusError{request: r.String(), status: resp.StatusCode, meaning: e.meaning},
	}
}

// statusError is an answer of Vault that is none of success.
type statusError struct {
	request string
	status  int
	meaning string
}

// Error says what was asked and what the status means.
func (e *statusError) Error() string {
	return e.request + ": " + e.meaning + " (" + strconv.Itoa(e.status) + ")"
}

func ended(ctx context.Context, r request) error {
	return providers.Errorf(providers.Unavailable, "%s: %w", r, ctx.Err())
}

type meaning struct {
	kind    providers.Kind
	meaning string
}

// kindOf says what a status means for a read.
func kindOf(resp *http.Response) meaning {
	switch code := resp.StatusCode; {
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return meaning{providers.Denied, "Vault's policy does not allow it, or the token is not valid"}
	case code == http.StatusNotFound:
		return meaning{providers.NotFound, "Vault has nothing there"}
	case code == http.StatusPreconditionFailed:
		return meaning{providers.Unavailable, "this node of Vault has not caught up with an earlier write"}
	case code == http.StatusTooManyRequests:
		return meaning{providers.Throttled, "Vault asks for fewer requests"}
	case code == statusStandby || code == statusDRSecondary:
		return meaning{providers.Unavailable, "this node of Vault is a standby and does not answer"}
	case code == http.StatusServiceUnavailable:
		return meaning{providers.Unavailable, "Vault is sealed, or down for maintenance"}
	case code >= http.StatusInternalServerError:
		return meaning{providers.Unavailable, "Vault failed"}
	case code >= http.StatusMultipleChoices && code < http.StatusBadRequest:
		return meaning{providers.Unavailable, redirected(resp)}
	default:
		return meaning{providers.Invalid, "Vault refuses the request as malformed, or not supported there"}
	}
}

func redirected(resp *http.Response) string {
	to, err := resp.Location()
	if err != nil {
		return "Vault redirects to nowhere"
	}
	return "Vault redirects to " + strconv.Quote(to.Host) + ", which is not followed; let vaultAddr name the host that answers"
}
