package aws

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds maps the error codes of Secrets Manager, Systems Manager, STS and those that all services have. Codes that are
// not here are judged by the status. Source: the services' API references, "Common errors" and each action's own.
var kinds = map[string]providers.Kind{
	"ResourceNotFoundException": providers.NotFound,
	"ParameterNotFound":         providers.NotFound,
	"ParameterVersionNotFound":  providers.NotFound,
	"InvalidRequestException":   providers.NotFound, // marked for deletion, or without a value

	"AccessDenied":                providers.Denied,
	"AccessDeniedException":       providers.Denied,
	"DecryptionFailure":           providers.Denied, // the key is disabled, or not for this caller
	"InvalidKeyId":                providers.Denied,
	"IDPRejectedClaim":            providers.Denied,
	"IncompleteSignature":         providers.Denied,
	"InvalidAccessKeyId":          providers.Denied,
	"InvalidClientTokenId":        providers.Denied,
	"InvalidIdentityToken":        providers.Denied,
	"InvalidSignatureException":   providers.Denied,
	"MissingAuthenticationToken":  providers.Denied,
	"NotAuthorized":               providers.Denied,
	"OptInRequired":               providers.Denied,
	"SignatureDoesNotMatch":       providers.Denied,
	"UnauthorizedOperation":       providers.Denied,
	"UnrecognizedClientException": providers.Denied,

	"ExpiredToken":          providers.Unavailable, // replaced before the retry, see sessions.noteError
	"ExpiredTokenException": providers.Unavailable,
	"IDPCommunicationError": providers.Unavailable,
	"RequestExpired":        providers.Unavailable, // the SDK corrects its clock before the retry
	"RequestTimeTooSkewed":  providers.Unavailable,
	"InternalServiceError":  providers.Unavailable,
	"InternalServerError":   providers.Unavailable,
	"InternalFailure":       providers.Unavailable,

	"LimitExceededException":                 providers.Throttled,
	"RequestLimitExceeded":                   providers.Throttled,
	"RequestThrottled":                       providers.Throttled,
	"RequestThrottledException":              providers.Throttled,
	"SlowDown":                               providers.Throttled,
	"Throttling":                             providers.Throttled,
	"ThrottlingException":                    providers.Throttled,
	"ThrottledException":                     providers.Throttled,
	"TooManyRequestsException":               providers.Throttled,
	"TooManyUpdates":                         providers.Throttled,
	"BandwidthLimitExceeded":                 providers.Throttled,
	"PriorRequestNotComplete":                providers.Unavailable,
	"ServiceUnavailable":                     providers.Unavailable,
	"ServiceUnavailableException":            providers.Unavailable,
	"EC2ThrottledException":                  providers.Throttled,
	"ProvisionedThroughputExceededException": providers.Throttled,
}

// failed maps an error of the SDK. Only the code of what AWS said is repeated, not its words.
func failed(ctx context.Context, action, resource string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) { // of the call, whose deadline is the caller's and may be first by a moment
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < time.Second {
			<-ctx.Done()
		}
	}
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: wait for AWS: %w", action, ctx.Err())
	}
	if e, ok := errors.AsType[*providers.Error](err); ok {
		return e
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return said(action, resource, api, response(err))
	}
	if _, ok := errors.AsType[*smithy.DeserializationError](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: AWS' answer is cut off or malformed", action)
	}
	return providers.Errorf(providers.Unavailable, "%s: %w", action, err)
}

// said maps what AWS answered. The act may be one that was needed for action, such as fetching credentials.
func said(action, resource string, api smithy.APIError, resp *http.Response) error {
	kind, code := kindOfCode(api), api.ErrorCode()
	if kind == providers.Unknown {
		kind = kindOfStatus(resp)
	}
	switch kind {
	case providers.Denied:
		return providers.Errorf(kind, "%s of %s: AWS refuses it (%s): allow it in the policies of the caller, the secret and its key", action, resource, code)
	case providers.Throttled, providers.Unavailable:
		err := providers.Errorf(kind, "%s: AWS answered %s", action, code)
		if resp != nil {
			err.RetryAfter = providers.RetryAfterOf(resp.Header)
		}
		return err
	default:
		return providers.Errorf(kind, "%s of %s: AWS answered %s", action, resource, code)
	}
}

// kindOfCode returns Unknown for a code that is not listed.
func kindOfCode(api smithy.APIError) providers.Kind {
	// A wrong clock and a wrong key have one code; only the text tells them apart.
	text := api.ErrorMessage()
	if strings.Contains(text, "Signature expired") || strings.Contains(text, "Signature not yet current") {
		return providers.Unavailable
	}
	return kinds[api.ErrorCode()]
}

func kindOfStatus(resp *http.Response) providers.Kind {
	switch {
	case resp == nil || resp.StatusCode >= 500:
		return providers.Unavailable
	case resp.StatusCode == http.StatusTooManyRequests:
		return providers.Throttled
	case resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized:
		return providers.Denied
	default:
		return providers.Invalid
	}
}

// kindOf returns the kind of err, mapped or not.
func kindOf(err error) providers.Kind {
	if err == nil {
		return providers.Unknown
	}
	return providers.KindOf(failed(context.Background(), "", "", err))
}

// expiredCredentials tells whether AWS refused a call for the age of its credentials.
func expiredCredentials(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && (api.ErrorCode() == "ExpiredToken" || api.ErrorCode() == "ExpiredTokenException")
}

func denied(err error) bool { return kindOf(err) == providers.Denied }

func response(err error) *http.Response {
	if e, ok := errors.AsType[*awshttp.ResponseError](err); ok && e.Response != nil {
		return e.Response.Response
	}
	return nil
}
