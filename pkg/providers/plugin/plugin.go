// Package plugin says what went wrong with a call of a plugin: another program, which serves gRPC on a Unix socket. The
// bridges to the kinds of plugins use it.
//
// What a plugin says is not trusted to be free of secrets: of its errors only the code is shown.
package plugin

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds maps what plugins answer. Most of those for Dapr know Unknown only, for whatever went wrong; that is taken for a
// failure that may pass, so that the last good answer stays.
var kinds = map[codes.Code]providers.Kind{
	codes.NotFound:           providers.NotFound,
	codes.PermissionDenied:   providers.Denied,
	codes.Unauthenticated:    providers.Denied,
	codes.InvalidArgument:    providers.Invalid,
	codes.FailedPrecondition: providers.Invalid,
	codes.OutOfRange:         providers.Invalid,
	codes.Unimplemented:      providers.Invalid,
	codes.ResourceExhausted:  providers.Throttled,
}

// Unreached returns the error for a socket that can't be connected to.
func Unreached(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrPermission):
		return providers.Errorf(providers.Unavailable, "%w: the agent must be able to write to the socket; a plugin of another user has to give it mode 0666", err)
	}
	return providers.Errorf(providers.Unavailable, "%w", err)
}

// early is how long before a deadline here the plugin, which has the same one, may give up.
const early = 10 * time.Millisecond

// Failure returns the error for a call that failed, without the plugin's text.
func Failure(ctx context.Context, call string, err error) error {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < early {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	code := status.Code(err)
	kind, ok := kinds[code]
	if !ok {
		kind = providers.Unavailable
	}
	return providers.Errorf(kind, "plugin answers %s with %v; its own log may say why", call, code)
}
