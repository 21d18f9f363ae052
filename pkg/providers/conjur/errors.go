package conjur

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/keywell/keywell/pkg/providers"
)

// meanings says what a status means for a read. Source: cyberark/conjur-openapi-spec, and app/controllers of cyberark/conjur.
var meanings = map[int]struct {
	kind providers.Kind
	text string
}{
	http.StatusUnauthorized:        {providers.Denied, "Conjur does not accept the access token"},
	http.StatusForbidden:           {providers.Denied, "Conjur's policy does not allow it"},
	http.StatusNotFound:            {providers.NotFound, "Conjur has none with a value, or its policy does not show it"},
	http.StatusTooManyRequests:     {providers.Throttled, "Conjur asks for fewer requests"},
	http.StatusBadRequest:          {providers.Invalid, "Conjur refuses the request as malformed"},
	http.StatusNotAcceptable:       {providers.Invalid, "Conjur can't write the value as JSON"},
	http.StatusUnprocessableEntity: {providers.Invalid, "Conjur refuses the request"},
}

// statusError is an answer of Conjur that is none of success. Conjur's own text is left out: it may quote what it was sent.
type statusError struct {
	act, meaning string
	status       int
}

// Error says what was asked and what the status means.
func (e *statusError) Error() string {
	return e.act + ": " + e.meaning + " (" + strconv.Itoa(e.status) + ")"
}

// refused maps an answer.
func refused(r request, resp *http.Response) error {
	code := resp.StatusCode
	m, known := meanings[code]
	switch {
	case known:
	case code < http.StatusBadRequest:
		m.kind, m.text = providers.Unavailable, "Conjur redirects, which is not followed; let applianceUrl name the host that answers"
	case code < http.StatusInternalServerError:
		m.kind, m.text = providers.Invalid, "Conjur refuses the request"
	default:
		m.kind, m.text = providers.Unavailable, "Conjur failed"
	}
	return &providers.Error{
		Kind: m.kind, RetryAfter: providers.RetryAfterOf(resp.Header), Err: &statusError{act: r.act, meaning: m.text, status: code},
	}
}

// refusedLogin says that it was the login that failed. What Conjur has none of, or calls malformed, is then the identity or
// its credentials.
func refusedLogin(act string, err error) error {
	e, ok := errors.AsType[*statusError](err)
	if !ok || providers.KindOf(err) == providers.Throttled || providers.KindOf(err) == providers.Unavailable {
		return err
	}
	meaning := "Conjur refuses it; Conjur's log says why"
	if e.status == http.StatusNotFound {
		meaning = "Conjur has no such authenticator, or account"
	}
	return &providers.Error{Kind: providers.Denied, Err: &statusError{act: act, meaning: meaning, status: e.status}}
}

// refusedToken tells whether err is about the access token, not about what it allows.
func refusedToken(err error) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.status == http.StatusUnauthorized
}

// broken maps a call that got no answer, or a part of one.
func broken(ctx context.Context, r request, err error) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: wait for Conjur: %w", r.act, ctx.Err())
	}
	if e, ok := errors.AsType[*url.Error](err); ok { // says the URL again
		err = e.Err
	}
	return providers.Errorf(providers.Unavailable, "%s: %w", r.act, err)
}
