package azure

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keywell/keywell/pkg/providers"
)

// failed maps an error of the SDK for a read of what.
func failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: wait for the vault: %w", what, ctx.Err())
	}
	if e, ok := errors.AsType[*providers.Error](err); ok {
		return e
	}
	refused, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return unreachable(what, err)
	}
	switch code := refused.StatusCode; {
	case code == http.StatusNotFound:
		return providers.Errorf(providers.NotFound, "%s: the vault has none (%s)", what, codeOf(refused))
	case code == http.StatusForbidden:
		return providers.Errorf(providers.Denied, "%s: the vault refuses it (%s): it may be disabled, or the caller lacks the right to get it", what, codeOf(refused))
	case code == http.StatusUnauthorized:
		return providers.Errorf(providers.Denied, "%s: the vault does not accept the token", what)
	case code == http.StatusTooManyRequests:
		return withRetryAfter(providers.Errorf(providers.Throttled, "%s: the vault asks for fewer requests", what), refused.RawResponse)
	case code == http.StatusRequestTimeout || code >= 500:
		return withRetryAfter(providers.Errorf(providers.Unavailable, "%s: the vault answered %d %s", what, code, http.StatusText(code)), refused.RawResponse)
	default:
		return providers.Errorf(providers.Invalid, "%s: the vault answered %d %s (%s)", what, code, http.StatusText(code), codeOf(refused))
	}
}

// codeOf returns Azure's code, if it looks like one.
func codeOf(e *azcore.ResponseError) string {
	if isName(e.ErrorCode) {
		return e.ErrorCode
	}
	return strconv.Itoa(e.StatusCode)
}

// failedLogin maps an error of the SDK on the way to a token.
func failedLogin(ctx context.Context, who string, err error) error {
	refused, ok := errors.AsType[*azidentity.AuthenticationFailedError](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled) || ctx.Err() != nil:
		return providers.Errorf(providers.Unavailable, "log in to Azure by %s: %w", who, ctx.Err())
	case !ok || refused.RawResponse == nil:
		return unreachable("log in to Azure by "+who, err)
	}
	resp := refused.RawResponse
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		return withRetryAfter(providers.Errorf(providers.Throttled, "log in to Azure by %s: Entra ID asks for fewer requests", who), resp)
	case code >= 500:
		return withRetryAfter(providers.Errorf(providers.Unavailable, "log in to Azure by %s: Entra ID answered %d", who, code), resp)
	default:
		return providers.Errorf(providers.Denied, "log in to Azure by %s: Entra ID refuses it (%d%s)", who, code, loginCodes(resp))
	}
}

// loginCodes returns the numbers by which Entra ID says why (AADSTS…), and nothing else of its answer.
func loginCodes(resp *http.Response) string {
	var answer struct {
		Codes []int `json:"error_codes"`
	}
	if resp.Body == nil || json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer) != nil {
		return ""
	}
	text := ""
	for _, code := range answer.Codes {
		text += ", AADSTS" + strconv.Itoa(code)
	}
	return text
}

// unreachable is for an error that is no answer. Of those only the network's are quoted: others may hold what was read.
func unreachable(act string, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	return providers.Errorf(providers.Unavailable, "%s: no usable answer", act)
}

// statusOf returns the status of the vault's answer; zero if there was none.
func statusOf(err error) int {
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return e.StatusCode
	}
	return 0
}

func withRetryAfter(err *providers.Error, resp *http.Response) error {
	if resp == nil {
		return err
	}
	for name, unit := range map[string]time.Duration{"Retry-After": time.Second, "retry-after-ms": time.Millisecond, "x-ms-retry-after-ms": time.Millisecond} {
		if n, bad := strconv.Atoi(resp.Header.Get(name)); bad == nil && n > 0 {
			err.RetryAfter = max(err.RetryAfter, time.Duration(n)*unit)
		}
	}
	return err
}
