package providers

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind classifies why a store did not answer with a secret. Everything above the drivers decides by it.
type Kind uint8

// The kinds of failure.
const (
	Unknown     Kind = iota // not classified, treated as Unavailable by the resolver
	NotFound                // the store answered: no such secret, version or field
	Denied                  // the store answered: this identity may not read it
	Invalid                 // the request or the configuration can't work, whatever the state of the store
	Unavailable             // the store could not be reached or broke down; worth a retry
	Throttled               // the store asked for fewer requests; worth a retry after RetryAfter
)

var kindNames = [...]string{"unknown", "not found", "denied", "invalid", "unavailable", "throttled"}

// String returns the kind in lower case, for log attributes and metric labels.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Unknown]
}

// ErrNoTokens is the cause of the error of a store that reads with a pod's own tokens and was given none. Its kind is
// Invalid.
var ErrNoTokens = errors.New("the store reads with the pod's own token, and this read brings none")

// ErrBadToken is the cause of the error of a store that refuses the token itself which a read brings, whatever its
// owner's rights, because it has expired or its pod is gone. Its kind is Denied.
var ErrBadToken = errors.New("the pod's token is not accepted")

// Error is a failure of a store. A driver sets Kind, Err and, where the store told it, RetryAfter; the resolver adds
// Store and Name. Err's text reaches callers of the API: it never holds secret bytes, a token or a response body.
type Error struct {
	Store      string
	Name       string
	Kind       Kind
	RetryAfter time.Duration // zero: the store did not say
	Err        error
}

// Errorf returns an *Error of kind k with a formatted cause; %w keeps the cause for errors.Is.
func Errorf(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// Error says which secret of which store, then why.
func (e *Error) Error() string {
	switch {
	case e.Store == "":
		return e.Err.Error()
	case e.Name == "":
		return fmt.Sprintf("store %q: %v", e.Store, e.Err)
	default:
		return fmt.Sprintf("secret %q of store %q: %v", e.Name, e.Store, e.Err)
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the first *Error in err's chain. An expired deadline is Unavailable; nil and everything
// else, a cancellation included, is Unknown.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Unavailable
	}
	return Unknown
}

// RetryAfter returns how long the store asked to be left alone, or zero.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}
