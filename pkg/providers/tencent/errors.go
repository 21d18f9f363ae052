package tencent

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"

	tcerrors "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/errors"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds maps the first part of an error code. Source: https://cloud.tencent.com/document/api/1140/40500, and each call's.
var kinds = map[string]providers.Kind{
	"ResourceNotFound":      providers.NotFound,
	"ResourceUnavailable":   providers.NotFound, // disabled, or waiting for deletion
	"AuthFailure":           providers.Denied,
	"UnauthorizedOperation": providers.Denied,
	"OperationDenied":       providers.Denied,
	"RequestLimitExceeded":  providers.Throttled,
	"LimitExceeded":         providers.Throttled,
	"InvalidParameter":      providers.Invalid,
	"InvalidParameterValue": providers.Invalid,
	"MissingParameter":      providers.Invalid,
	"UnknownParameter":      providers.Invalid,
	"UnsupportedOperation":  providers.Invalid,
	"UnsupportedRegion":     providers.Invalid,
	"InvalidAction":         providers.Invalid,
}

// skewed is the code for a call that was signed at another time than Tencent's.
const skewed = "AuthFailure.SignatureExpire"

// outdated tells whether Tencent does not know the credentials any more with which a call was signed.
func outdated(err error) bool {
	said, ok := errors.AsType[*tcerrors.TencentCloudSDKError](err)
	return ok && (said.Code == "AuthFailure.TokenFailure" || said.Code == "AuthFailure.SecretIdNotFound")
}

// failed maps an error of the SDK for an act. Only the code of what Tencent said is repeated, not its words.
func failed(ctx context.Context, act string, err error) error {
	if ctx.Err() != nil {
		return providers.Errorf(providers.Unavailable, "%s: wait for Tencent Cloud: %w", act, ctx.Err())
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return providers.Errorf(providers.Unavailable, "%s: %w", act, e)
	}
	said, ok := errors.AsType[*tcerrors.TencentCloudSDKError](err)
	if !ok {
		return providers.Errorf(providers.Unavailable, "%s: no usable answer", act)
	}
	first, _, _ := strings.Cut(said.Code, ".")
	kind, listed := kinds[first]
	if !listed {
		kind = providers.Unavailable
	}
	if said.Code == skewed { // which says nothing of rights
		return providers.Errorf(providers.Unavailable, "%s: Tencent Cloud answered %s: compare the node's clock", act, skewed)
	}
	if !providers.ConsistsOf(said.Code, 100, ".") {
		return providers.Errorf(kind, "%s: no usable answer", act)
	}
	return providers.Errorf(kind, "%s: Tencent Cloud answered %s", act, said.Code)
}
