package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keywell/keywell/pkg/providers"
)

// domain is the domain of the reasons in error details.
const domain = "keywell.dev"

// situation is one row of the table of failures. The texts and codes are Dapr's (pkg/messages/predefined.go of daprd
// 1.18), which are the same for both protocols.
type situation struct {
	status    int        // HTTP status
	errorCode string     // HTTP body's errorCode
	code      codes.Code // gRPC code
	format    string     // of the message
}

// The table of failures.
var (
	noStores      = situation{http.StatusInternalServerError, "ERR_SECRET_STORES_NOT_CONFIGURED", codes.FailedPrecondition, "secret store is not configured"}
	storeNotFound = situation{http.StatusUnauthorized, "ERR_SECRET_STORE_NOT_FOUND", codes.InvalidArgument, "failed finding secret store with key %s"}
	denied        = situation{http.StatusForbidden, "ERR_PERMISSION_DENIED", codes.PermissionDenied, "access denied by policy to get %q from %q"}
	listDenied    = situation{http.StatusForbidden, "ERR_PERMISSION_DENIED", codes.PermissionDenied, "access denied by policy to list the secrets of %q"} // not Dapr's, which has no such rule
	getFailed     = situation{http.StatusInternalServerError, "ERR_SECRET_GET", codes.Internal, "failed getting secret with key %s from secret store %s: %s"}
	bulkFailed    = situation{http.StatusInternalServerError, "ERR_SECRET_GET", codes.Internal, "failed getting secrets from secret store %s: %s"}

	malformed     = situation{http.StatusBadRequest, "ERR_MALFORMED_REQUEST", codes.InvalidArgument, "failed deserializing HTTP body: %v"}
	bodyRead      = situation{http.StatusBadRequest, "ERR_BODY_READ", codes.InvalidArgument, "failed to read request body: %v"}
	unmatched     = situation{http.StatusNotFound, "ERR_DIRECT_INVOKE", codes.Unknown, "failed getting app id either from the URL path or the header dapr-app-id"}
	notReady      = situation{http.StatusInternalServerError, "ERR_HEALTH_NOT_READY", codes.Internal, "dapr is not ready: %v"}
	otherAppID    = situation{http.StatusInternalServerError, "ERR_HEALTH_APPID_NOT_MATCH", codes.Internal, "dapr app-id does not match"}
	outboundDown  = situation{http.StatusInternalServerError, "ERR_OUTBOUND_HEALTH_NOT_READY", codes.Internal, "dapr outbound is not ready"}
	tooLarge      = situation{http.StatusBadRequest, "ERR_MALFORMED_REQUEST", codes.InvalidArgument, "store, key and metadata are longer than %d bytes"} // not Dapr's, which has no such limit
	metadataLimit = situation{http.StatusRequestEntityTooLarge, "ERR_METADATA_LIMIT", codes.ResourceExhausted, "metadata %s"}                            // not Dapr's, which has no limit
	badWatch      = situation{http.StatusBadRequest, "ERR_MALFORMED_REQUEST", codes.InvalidArgument, "%s"}
	watchLimit    = situation{http.StatusTooManyRequests, "ERR_WATCH_LIMIT", codes.ResourceExhausted, "too many secrets are watched"}
	unattested    = situation{http.StatusUnauthorized, "ERR_UNAUTHENTICATED", codes.Unauthenticated, "the API token is no longer valid"}
	stopping      = situation{http.StatusServiceUnavailable, "ERR_STOPPING", codes.Unavailable, "the agent is stopping"}
	other         = situation{http.StatusInternalServerError, "ERROR", codes.Unknown, "%v"}
)

// Failures of the configuration API, which shows secrets too.
var (
	noConfigurations      = situation{http.StatusInternalServerError, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", codes.FailedPrecondition, "configuration stores not configured"}
	configurationNotFound = situation{http.StatusBadRequest, "ERR_CONFIGURATION_STORE_NOT_FOUND", codes.InvalidArgument, "configuration store %s not found"}
	configurationGet      = situation{http.StatusInternalServerError, "ERR_CONFIGURATION_GET", codes.Internal, "failed to get %s from Configuration store %s: %s"}
	configurationWatch    = situation{http.StatusInternalServerError, "ERR_CONFIGURATION_SUBSCRIBE", codes.InvalidArgument, "failed to subscribe %s from Configuration store %s: %s"}
	noAppChannel          = situation{http.StatusInternalServerError, "ERR_APP_CHANNEL_NIL", codes.FailedPrecondition, "app channel is not initialized. cannot subscribe to configuration updates"}
)

// The reasons in error details, which are also the results in metrics.
const (
	reasonStoresNotConfigured = "STORES_NOT_CONFIGURED"
	reasonStoreNotFound       = "STORE_NOT_FOUND"
	reasonStoreClosed         = "STORE_CLOSED" // configured, but not in service
	reasonSecretDenied        = "SECRET_DENIED"
	reasonSecretNotFound      = "SECRET_NOT_FOUND"
	reasonSecretInvalid       = "SECRET_INVALID" // the store can't do what was asked
	reasonSecretBinary        = "SECRET_BINARY"  // not UTF-8 text
	reasonStoreDenied         = "STORE_DENIED"   // the store refused the agent or the pod
	reasonStoreUnavailable    = "STORE_UNAVAILABLE"
	reasonStoreThrottled      = "STORE_THROTTLED"

	reasonBadRequest = "BAD_REQUEST"
	reasonUnmatched  = "UNMATCHED"
	reasonNotReady   = "NOT_READY"
	reasonCancelled  = "CANCELLED" // the caller gave up
	reasonLimit      = "LIMIT"
	reasonInternal   = "INTERNAL"

	reasonUnattested   = "UNATTESTED" // the caller of a stream is no longer who it was
	reasonStopping     = "STOPPING"
	reasonNoAppChannel = "NO_APP_CHANNEL"
)

// fault is a failure as a caller sees it.
type fault struct {
	situation
	message       string
	reason        string
	store, secret string        // what it concerns; details are given only where store is set
	retryAfter    time.Duration // zero: the store did not say
	hint          string        // what to do instead, for details
	cause         error         // for the debug log
}

func newFault(s situation, reason string, args ...any) *fault {
	return &fault{situation: s, reason: reason, message: fmt.Sprintf(s.format, args...)}
}

// Error returns the message.
func (f *fault) Error() string { return f.message }

// deniedFault translates a refusal of the policy that concerns a secret, or a listing if name is empty.
func deniedFault(store, name string, err error) *fault {
	f := newFault(denied, reasonSecretDenied, name, store)
	if name == "" {
		f = newFault(listDenied, reasonSecretDenied, store)
	}
	return f.about(store, name, err)
}

// getFault translates a failure to read one secret.
func getFault(store, name string, err error) *fault {
	reason, text := reasonOf(err)
	return newFault(getFailed, reason, name, store, text).about(store, name, err)
}

// bulkFault translates a failure that fails a bulk call; name is empty if listing failed.
func bulkFault(store, name string, err error) *fault {
	reason, text := reasonOf(err)
	return newFault(bulkFailed, reason, store, text).about(store, name, err)
}

// about sets what the failure concerns and its cause.
func (f *fault) about(store, name string, err error) *fault {
	f.store, f.secret, f.cause = store, name, err
	f.retryAfter = providers.RetryAfter(err)
	return f
}

// reasonOf returns the reason for an error of the resolver, and its text as Dapr would have it from the store: without
// the names of store and secret, which Dapr's message already has.
func reasonOf(err error) (reason, text string) {
	text = err.Error()
	if e, ok := errors.AsType[*providers.Error](err); ok {
		text = e.Err.Error()
	}
	switch {
	case errors.Is(err, errBinary):
		return reasonSecretBinary, text
	case errors.Is(err, context.Canceled):
		return reasonCancelled, text
	}
	switch providers.KindOf(err) {
	case providers.NotFound:
		return reasonSecretNotFound, text
	case providers.Denied:
		return reasonStoreDenied, text
	case providers.Invalid:
		return reasonSecretInvalid, text
	case providers.Throttled:
		return reasonStoreThrottled, text
	default:
		return reasonStoreUnavailable, text
	}
}

// asFault returns err as a fault; an error that is none is a bug of ours or a call that was given up.
func asFault(err error) *fault {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	return newFault(other, reasonInternal, err)
}

// GRPCStatus returns the failure as a gRPC status; grpc-go calls it.
func (f *fault) GRPCStatus() *status.Status {
	s := status.New(f.code, f.message)
	if f.store == "" {
		return s
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: f.reason, Domain: domain, Metadata: f.subject()}}
	if f.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(f.retryAfter)})
	}
	if detailed, err := s.WithDetails(details...); err == nil {
		return detailed
	}
	return s
}

// subject says which store and secret the failure concerns.
func (f *fault) subject() map[string]string {
	m := map[string]string{"store": f.store}
	if f.secret != "" {
		m["secret"] = f.secret
	}
	if f.hint != "" {
		m["hint"] = f.hint
	}
	return m
}

// errorBody is the body of an HTTP error: Dapr's two members, then ours. The details are google.rpc messages in their
// JSON form.
type errorBody struct {
	ErrorCode string `json:"errorCode"`
	Message   string `json:"message"`
	Details   []any  `json:"details,omitempty"`
}

type errorInfo struct {
	Type     string            `json:"@type"`
	Reason   string            `json:"reason"`
	Domain   string            `json:"domain"`
	Metadata map[string]string `json:"metadata"`
}

type retryInfo struct {
	Type       string `json:"@type"`
	RetryDelay string `json:"retryDelay"`
}

// json returns the failure as the body of an HTTP answer, without a newline, as Dapr's.
func (f *fault) json() []byte {
	body := errorBody{ErrorCode: f.errorCode, Message: f.message}
	if f.store != "" {
		body.Details = append(body.Details, errorInfo{"type.googleapis.com/google.rpc.ErrorInfo", f.reason, domain, f.subject()})
		if f.retryAfter > 0 {
			delay := fmt.Sprintf("%.3fs", f.retryAfter.Seconds())
			body.Details = append(body.Details, retryInfo{"type.googleapis.com/google.rpc.RetryInfo", delay})
		}
	}
	b, err := json.Marshal(body)
	if err != nil { // strings and maps of strings: it can't
		return nil
	}
	return b
}
