package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"k8s.io/client-go/rest"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// What is asked for: whole objects, or their metadata only. Source:
// https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables and following.
const (
	acceptObject   = "application/json"
	acceptMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	acceptNames    = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

const (
	pageSize = 500      // names per page of a listing
	maxBody  = 32 << 20 // of an answer; a Secret holds 1 MiB
)

// client speaks the API server's protocol for Secrets. It has no credentials: each request brings a pod's. It is plain
// HTTP rather than client-go's REST client because retries and rate limits belong to package resolve, and because what
// is read of an answer are three members of it.
type client struct {
	http *http.Client
	base *url.URL
}

func newClient(cfg *rest.Config) (*client, error) {
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare connections to the API server: %w", err)
	}
	// A token goes to the API server alone.
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client{http: h, base: base}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// request is one request for Secrets of a namespace.
type request struct {
	owner
	name   string // of one Secret; empty: of all
	token  secret.Value
	accept string
	query  url.Values
}

func (r request) url(base *url.URL) string {
	u := base.JoinPath("api/v1/namespaces", r.namespace, "secrets")
	if r.name != "" {
		u = u.JoinPath(r.name)
	}
	u.RawQuery = r.query.Encode()
	return u.String()
}

// get decodes the answer to r into out.
func (c *client) get(ctx context.Context, r request, out any) error {
	body, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer body.Close()
	if json.NewDecoder(io.LimitReader(body, maxBody)).Decode(out) != nil { // the decoder's error may quote what it read
		return cutOff(ctx)
	}
	return nil
}

// open sends r and returns the body of the answer, if that is a success.
func (c *client) open(ctx context.Context, r request) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url(c.base), nil)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "%w", err)
	}
	req.Header.Set("Accept", r.accept)
	req.Header.Set("Authorization", "Bearer "+string(r.token.Reveal()))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	_ = resp.Body.Close()
	return nil, refusal(r, resp.StatusCode, resp.Header)
}

func pageQuery(next string) url.Values {
	q := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if next != "" {
		q.Set("continue", next)
	}
	return q
}
