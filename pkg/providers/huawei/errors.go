package huawei

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/sdkerr"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds maps codes of the service and of the gateway before it; those that are not here are judged by their status. Source:
// https://support.huaweicloud.com/intl/en-us/api-dew/ErrorCode.html, and the gateway's.
var kinds = map[string]providers.Kind{
	"CSMS.0005":  providers.NotFound,
	"APIG.0308":  providers.Throttled,
	"APIGW.0308": providers.Throttled,
}

// aboutState begins codes which say that a secret is not in a state to be read: there is none, it is disabled, or waits for
// its deletion.
const aboutState = "CSMS.01"

// skew is how far clocks may be apart before signatures are refused for it.
const skew = 15 * time.Minute

// failed maps an error of the SDK for an act. Only the code of what Huawei said is repeated, not its words.
func failed(ctx context.Context, act string, got *answered, err error) error {
	switch {
	case ctx.Err() != nil:
		return providers.Errorf(providers.Unavailable, "%s: wait for Huawei Cloud: %w", act, ctx.Err())
	case got.err != nil:
		return providers.Errorf(providers.Unavailable, "%s: %w", act, got.err)
	case got.status < 400:
		return providers.Errorf(providers.Unavailable, "%s: no usable answer", act)
	}
	code := codeOf(err)
	mapped := providers.Errorf(kindOf(got.status, code), "%s: Huawei Cloud answered %d%s%s", act, got.status, spaced(code), got.clocks())
	mapped.RetryAfter = got.after
	return mapped
}

func kindOf(status int, code string) providers.Kind {
	kind, listed := kinds[code]
	switch {
	case listed:
		return kind
	case strings.HasPrefix(code, aboutState):
		return providers.NotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return providers.Denied
	case status == http.StatusTooManyRequests:
		return providers.Throttled
	case status == http.StatusNotFound && strings.HasPrefix(code, "CSMS."):
		return providers.NotFound
	case status == http.StatusRequestTimeout, status >= 500:
		return providers.Unavailable
	default:
		return providers.Invalid
	}
}

// codeOf returns the code of a refusal; empty if there is none that looks like one.
func codeOf(err error) string {
	said, ok := errors.AsType[*sdkerr.ServiceResponseError](err)
	if !ok || !providers.ConsistsOf(said.ErrorCode, 36, ".-_") {
		return ""
	}
	return said.ErrorCode
}

func spaced(code string) string {
	if code == "" {
		return ""
	}
	return " " + code
}

// clocks tells, of a refused signature, by how much this node's clock is wrong, if that may be why.
func (a *answered) clocks() string {
	if a.date.IsZero() || a.status != http.StatusUnauthorized {
		return ""
	}
	switch off := time.Since(a.date).Round(time.Minute); {
	case off >= skew:
		return ": this node's clock is " + off.String() + " ahead"
	case off <= -skew:
		return ": this node's clock is " + off.Abs().String() + " behind"
	default:
		return ""
	}
}
