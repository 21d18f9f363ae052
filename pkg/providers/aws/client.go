package aws

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
)

// connections are what all clients of one store share.
type connections struct {
	account
	http      *http.Client
	direct    *http.Client // for what is on the node itself
	transport *http.Transport
	cfg       aws.Config // with the agent's credentials
}

// newConnections finds out the region and whose credentials to use. It reads files and environment variables, and does no
// network I/O: credentials are fetched when they are first needed.
func newConnections(ctx context.Context, a account, dial connect.Dialer) (*connections, error) {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		if dial != nil {
			t.DialContext = dial
		}
	})
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(client),
		config.WithLogger(logging.Nop{}),                                   // what failed is in the error
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), // package resolve retries
	}
	if a.region != "" {
		load = append(load, config.WithRegion(a.region))
	}
	if a.accessKey != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(a.accessKey, a.secretKey, a.session)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "AWS configuration of the agent's environment: %w", err)
	}
	if cfg.Region == "" {
		return nil, providers.Errorf(providers.Invalid, "metadata field %q is required where neither AWS_REGION nor a profile names a region", "region")
	}
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok { // with the CAs of AWS_CA_BUNDLE by now
		client = b
	}
	c := &connections{account: a, transport: client.GetTransport(), cfg: cfg}
	c.http, c.direct = &http.Client{Transport: ownBody{c.transport}, CheckRedirect: connect.NeverFollow}, pastProxy(c.transport)
	c.region, c.cfg.HTTPClient = cfg.Region, c.http
	c.cfg.Credentials = c.agentCredentials()
	return c, nil
}

// ownBody sends a copy of each request's body. The SDK closes the body as soon as the answer has begun, and the transport,
// if it has not quite done with sending by then, takes that for an error and closes the connection, answer and all.
type ownBody struct{ next http.RoundTripper }

// RoundTrip sends r.
func (o ownBody) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return o.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil {
		return nil, err
	}
	r = r.WithContext(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return o.next.RoundTrip(r)
}

// agentCredentials returns the credentials for reads as the agent.
func (c *connections) agentCredentials() aws.CredentialsProvider {
	var p aws.CredentialsProvider
	switch {
	case c.anywhere.wanted():
		p = &anywhereProvider{anywhere: c.anywhere, region: c.region, http: c.http}
	case c.role != "":
		p = stscreds.NewAssumeRoleProvider(c.sts(), c.role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = c.sessionName
			if c.externalID != "" {
				o.ExternalID = &c.externalID
			}
		})
	default:
		p = c.cfg.Credentials
	}
	return aws.NewCredentialsCache(p, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute })
}

func (c *connections) sts() *sts.Client {
	return sts.NewFromConfig(c.cfg, func(o *sts.Options) {
		if c.stsEndpoint != "" {
			o.BaseEndpoint = &c.stsEndpoint
		}
	})
}

// place is a region to read from.
type place struct {
	region   string
	endpoint *string // nil: AWS' own
}

// places returns the regions to read from, in this order.
func (c *connections) places() []place {
	all := []place{{c.region, optional(c.endpoint)}}
	if c.failoverRegion != "" {
		all = append(all, place{c.failoverRegion, optional(c.failoverEndpoint)})
	}
	return all
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// inTurn asks one region after the other until one answers. A region that has an answer, if only a refusal, ends it. All
// but the last get an equal part of the time that is left.
func inTurn[C, T any](ctx context.Context, clients []C, ask func(context.Context, C) (T, error)) (T, error) {
	last := len(clients) - 1
	for i, client := range clients[:last] {
		part, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok {
			part, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(last-i+1))
		}
		answer, err := ask(part, client)
		cancel()
		if k := kindOf(err); err == nil || ctx.Err() != nil || k != providers.Unavailable && k != providers.Throttled {
			return answer, err
		}
	}
	return ask(ctx, clients[last])
}
