package alibaba

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds maps the first part of an error code; codes that are not here are judged by the status. Source: the error
// centre of https://api.aliyun.com, products OOS and the common ones.
var kinds = map[string]providers.Kind{
	"EntityNotExists":       providers.NotFound,
	"Forbidden":             providers.Denied,
	"NoPermission":          providers.Denied,
	"AuthenticationFail":    providers.Denied, // STS: of the token, or of its owner
	"InvalidAccessKeyId":    providers.Denied,
	"InvalidSecurityToken":  providers.Denied,
	"InvalidTimeStamp":      providers.Unavailable, // the clocks differ, which says nothing of rights
	"IncompleteSignature":   providers.Denied,
	"SignatureDoesNotMatch": providers.Denied,
	"SignatureNonceUsed":    providers.Unavailable,
	"Throttling":            providers.Throttled,
	"InternalError":         providers.Unavailable,
	"ServiceUnavailable":    providers.Unavailable,
}

// outdated tells whether Alibaba Cloud does not know the credentials any more with which a call was signed.
func outdated(err error) bool {
	code, _, _ := said(err)
	return strings.HasPrefix(code, "InvalidSecurityToken.") || strings.HasPrefix(code, "InvalidAccessKeyId.")
}

// failed maps an error of the SDK for an act. Only the code of what Alibaba Cloud said is repeated, not its words.
func failed(ctx context.Context, act string, err error) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: wait for Alibaba Cloud: %w", act, ctx.Err())
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %s: %w", act, e.Op, e.Err) // not the URL, which holds the signature's parameters
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	code, status, after := said(err)
	if code == "" {
		return providers.Errorf(providers.Unavailable, "%s: no usable answer", act)
	}
	first, _, _ := strings.Cut(code, ".")
	kind, listed := kinds[first]
	switch {
	case listed:
	case status == http.StatusTooManyRequests:
		kind = providers.Throttled
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		kind = providers.Denied
	case status >= 400 && status < 500:
		kind = providers.Invalid
	default:
		kind = providers.Unavailable
	}
	if first == "InvalidTimeStamp" {
		code += ": compare the node's clock"
	}
	mapped := providers.Errorf(kind, "%s: Alibaba Cloud answered %s", act, code)
	mapped.RetryAfter = after
	return mapped
}

// said returns code and status of a refusal, and how long to wait. The code is empty if there was none that looks like one.
func said(err error) (code string, status int, after time.Duration) {
	if e, ok := errors.AsType[*tea.SDKError](err); ok {
		code, status = tea.StringValue(e.Code), tea.IntValue(e.StatusCode)
	}
	if e, ok := errors.AsType[*openapi.ThrottlingError](err); ok {
		after = time.Duration(tea.Int64Value(e.RetryAfter)) * time.Millisecond
	}
	if !providers.ConsistsOf(code, 100, ".-_") {
		code = ""
	}
	return code, status, after
}
