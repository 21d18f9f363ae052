package csi

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
)

// invalidRequest is what is wrong with a request, in one sentence that holds nothing of the volume context's values.
type invalidRequest string

// Error returns the sentence.
func (e invalidRequest) Error() string { return string(e) }

// errStarting is returned for a store that is not known while there may still come stores.
var errStarting = errors.New("the agent is starting and does not know all stores yet")

// panicked is a panic that was caught. Its text stays in the log.
type panicked struct {
	what  string
	stack []byte
}

// Error says what was thrown.
func (e *panicked) Error() string { return "panic: " + e.what }

// code returns the gRPC code for an error of package volume, or of this one.
//
// After the first publish of a volume fails, the kubelet acts on the code. Canceled, DeadlineExceeded, Unavailable,
// ResourceExhausted and Aborted are not final: it keeps the target directory and will unpublish the volume even if it
// never succeeds. Every other code is final: it takes it that nothing was mounted, removes the directory, and calls
// publish again but not unpublish. (Source: Kubernetes, pkg/volume/csi, isCSIOperationFinalError.) Both are safe,
// because a publish that fails leaves nothing behind and one that finds a directory checks what is mounted on it; where
// it is not certain that nothing was left, the code is not final.
func code(err error) codes.Code {
	switch {
	case err == nil:
		return codes.OK
	case is[*panicked](err):
		return codes.Unavailable // not final: who knows what was left
	case errors.Is(err, volume.ErrUnpublished):
		return codes.Aborted // not final: the unpublish that ended this publish is what counts
	case is[invalidRequest](err), is[*volume.InvalidError](err), errors.Is(err, mount.ErrBadTarget):
		return codes.InvalidArgument // final: the pod has to change
	case errors.Is(err, volume.ErrConflict):
		return codes.AlreadyExists // final: the CSI specification's code for another request under the same ID
	case errors.Is(err, mount.ErrOccupied):
		return codes.FailedPrecondition // final: what is mounted there is not ours, now or later
	case errors.Is(err, volume.ErrTooLarge):
		return codes.ResourceExhausted // not final: another volume's end makes room on the node
	case errors.Is(err, volume.ErrNotPublished), errors.Is(err, mount.ErrNotMounted):
		return codes.NotFound // asked for statistics only; there is nothing to keep
	case errors.Is(err, scope.ErrStoreNotFound), is[*scope.DeniedError](err):
		return codes.PermissionDenied // final: found out before anything was fetched or mounted
	case errors.Is(err, context.Canceled):
		return codes.Canceled // not final: the kubelet has gone and will ask again
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded // not final: the next call may find the answer in the cache
	case errors.Is(err, errStarting), errors.Is(err, resolve.ErrStoreClosed):
		return codes.Unavailable // not final: the agent goes on trying to open its stores
	case is[*providers.Error](err):
		return storeCode(providers.KindOf(err))
	default:
		return codes.Internal // final: package volume has undone what it did
	}
}

// is reports whether an error of type T is in err's chain.
func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// storeCode returns the code for a store's failure. Secrets are fetched before anything is mounted, so that final codes
// are safe; those that pass by themselves are not final.
func storeCode(kind providers.Kind) codes.Code {
	switch kind {
	case providers.NotFound:
		return codes.NotFound
	case providers.Denied:
		return codes.PermissionDenied
	case providers.Invalid:
		return codes.InvalidArgument
	case providers.Throttled:
		return codes.ResourceExhausted
	default:
		return codes.Unavailable
	}
}

// toStatus returns err as a gRPC status, whose message the kubelet shows in the pod's event: one line that says what to
// do. Of an internal error only the log says more, since nobody has looked at its text for secrets. A status that gRPC's
// own code made is passed on.
func toStatus(err error) error {
	if made, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return made.GRPCStatus().Err()
	}
	var (
		c       = code(err)
		message = err.Error()
	)
	switch denied, ok := errors.AsType[*scope.DeniedError](err); {
	case c == codes.Internal || is[*panicked](err):
		message = "internal error: see the agent's log"
	case errors.Is(err, scope.ErrStoreNotFound):
		message += ": no store of that name serves this pod; correct the name, or open the store to the pod with an AccessPolicy"
	case ok:
		message += ": " + denied.Rule + "; ask for a secret that the pod may read, or allow it with an AccessPolicy"
	}
	return status.Error(c, text(strings.ReplaceAll(message, "\n", "; ")))
}
