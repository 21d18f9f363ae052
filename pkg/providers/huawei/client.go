package huawei

import (
	"context"
	"net/http"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/config"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/impl"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/sdkerr"

	"github.com/keywell/keywell/pkg/providers"
)

// maxAnswer is more than a page of a listing can have.
const maxAnswer = 8 << 20

// answered is what the SDK's errors leave out of an answer, or say of it in words only.
type answered struct {
	status int           // zero: there was no answer
	after  time.Duration // what Retry-After says
	date   time.Time     // by the clock of who answered; zero: not said
	err    error         // why there was no answer
}

// roundTripper is a function that sends.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls it.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// sdk returns a client of the SDK for one call to an endpoint, which ends with ctx, and what will be known of the answer.
// The SDK itself makes its requests without a context, and no goroutine that outlives the call.
func sdk(ctx context.Context, transport http.RoundTripper, endpoint string, credential auth.ICredential) (*core.HcHttpClient, *answered) {
	got := &answered{}
	send := func(r *http.Request) (*http.Response, error) {
		resp, err := transport.RoundTrip(r.WithContext(ctx))
		if err != nil {
			got.err = err
			return nil, err
		}
		got.note(resp)
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
		return resp, nil
	}
	settings := config.DefaultHttpConfig().WithTimeout(0).WithUserAgent("keywell").WithHttpRoundTripper(roundTripper(send))
	client := core.NewHcHttpClient(impl.NewDefaultHttpClient(settings)).
		WithEndpoints([]string{endpoint}).WithCredential(credential).WithErrorHandler(sdkerr.DefaultErrorHandler{})
	return client, got
}

func (a *answered) note(resp *http.Response) {
	a.status, a.after = resp.StatusCode, providers.RetryAfterOf(resp.Header)
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.date = date
	}
}

// bearer is the credential of who has a token of IAM's for a project.
type bearer struct{ token, project string }

// ProcessAuthParams has nothing to find out.
func (b bearer) ProcessAuthParams(*impl.DefaultHttpClient, string) (auth.ICredential, error) {
	return b, nil
}

// ProcessAuthRequest puts the token and the project into a request.
func (b bearer) ProcessAuthRequest(_ *impl.DefaultHttpClient, r *request.DefaultHttpRequest) (*request.DefaultHttpRequest, error) {
	return r.Builder().AddAutoFilledPathParam("project_id", b.project).AddHeaderParam("X-Auth-Token", b.token).Build(), nil
}

// nobody is the credential for calls that need none.
type nobody struct{}

// ProcessAuthParams has nothing to find out.
func (n nobody) ProcessAuthParams(*impl.DefaultHttpClient, string) (auth.ICredential, error) {
	return n, nil
}

// ProcessAuthRequest returns r as it is.
func (nobody) ProcessAuthRequest(_ *impl.DefaultHttpClient, r *request.DefaultHttpRequest) (*request.DefaultHttpRequest, error) {
	return r, nil
}
