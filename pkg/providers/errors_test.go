package providers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

func TestKindOf(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want providers.Kind
	}{
		"nil":       {nil, providers.Unknown},
		"foreign":   {io.EOF, providers.Unknown},
		"direct":    {providers.Errorf(providers.Denied, "no"), providers.Denied},
		"wrapped":   {fmt.Errorf("read: %w", providers.Errorf(providers.NotFound, "no")), providers.NotFound},
		"outermost": {&providers.Error{Kind: providers.Invalid, Err: providers.Errorf(providers.Denied, "no")}, providers.Invalid},
		"deadline":  {fmt.Errorf("get: %w", context.DeadlineExceeded), providers.Unavailable},
		"cancelled": {fmt.Errorf("get: %w", context.Canceled), providers.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got := providers.KindOf(tt.err); got != tt.want {
				t.Errorf("KindOf(%v) = %v, want %v", tt.err, got, tt.want)
			}
		})
	}
}

func TestError(t *testing.T) {
	err := providers.Errorf(providers.Throttled, "get: %w", io.ErrUnexpectedEOF)
	err.RetryAfter = time.Second
	if !errors.Is(err, io.ErrUnexpectedEOF) || providers.RetryAfter(fmt.Errorf("x: %w", err)) != time.Second {
		t.Error("the cause or the pause got lost")
	}
	if providers.RetryAfter(io.EOF) != 0 {
		t.Error("a foreign error has a pause")
	}
	for _, tt := range []struct{ store, name, want string }{
		{"", "", "get: unexpected EOF"},
		{"vault", "", `store "vault": get: unexpected EOF`},
		{"vault", "db", `secret "db" of store "vault": get: unexpected EOF`},
	} {
		err.Store, err.Name = tt.store, tt.name
		if err.Error() != tt.want {
			t.Errorf("text %q, want %q", err, tt.want)
		}
	}
	if s := providers.Kind(200).String(); s != "unknown" {
		t.Errorf("an undefined kind prints as %q", s)
	}
}

func TestRetryAfterOf(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-1": 0, "soon": 0, "Thu, 01 Jan 1970 00:00:00 GMT": 0,
	} {
		if got := providers.RetryAfterOf(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	later := time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
	if got := providers.RetryAfterOf(http.Header{"Retry-After": {later}}); got < 50*time.Second || got > time.Minute {
		t.Errorf("%q: %v", later, got)
	}
}
