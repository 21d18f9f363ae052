package conjur

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/trust"
	"github.com/keywell/keywell/pkg/secret"
)

// maxAnswer is more than a batch of values has.
const maxAnswer = 32 << 20

// client speaks to one Conjur. Retries are the resolver's business.
type client struct {
	url  *url.URL
	http *http.Client
}

func newClient(s settings, dial connect.Dialer) (*client, error) {
	trusted := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case strings.Contains(s.ca, "-----BEGIN"):
		trusted.RootCAs = x509.NewCertPool()
		if !trusted.RootCAs.AppendCertsFromPEM([]byte(s.ca)) {
			return nil, invalid("caCert", "holds no certificate in PEM")
		}
	case s.ca != "":
		roots := func() (*x509.CertPool, error) { return rootsOf(s.ca) }
		if _, err := roots(); err != nil {
			return nil, invalid("caCert", err.Error())
		}
		trust.Follow(trusted, s.url.Hostname(), roots)
	}
	transport := connect.Transport(dial)
	transport.TLSClientConfig = trusted
	return &client{url: s.url, http: &http.Client{Transport: transport, CheckRedirect: connect.NeverFollow}}, nil
}

func rootsOf(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("is neither PEM nor a file that holds a certificate in PEM")
	}
	return pool, nil
}

// request is one call of Conjur's API.
type request struct {
	act    string   // what it does, for errors
	path   []string // segments, as they are: they are escaped on the way
	query  url.Values
	form   string       // body of a POST; empty: it is a GET
	kind   string       // of the form
	token  secret.Value // what goes into the header; empty: none
	base64 bool         // values should come in base64
}

// answer is what came back.
type answer struct {
	body   []byte
	header http.Header
}

// do calls Conjur once. The error has a Kind, and is a *statusError where Conjur answered.
func (c *client) do(ctx context.Context, r request) (answer, error) {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return answer{}, providers.Errorf(providers.Invalid, "%s: %w", r.act, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, broken(ctx, r, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return answer{}, refused(r, resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, broken(ctx, r, err)
	case len(body) > maxAnswer:
		return answer{}, providers.Errorf(providers.Unavailable, "%s: the answer is longer than %d bytes", r.act, maxAnswer)
	}
	return answer{body, resp.Header}, nil
}

func (c *client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	u := *c.url
	u.RawPath = c.url.EscapedPath()
	for _, segment := range r.path {
		u.Path += "/" + segment
		u.RawPath += "/" + url.PathEscape(segment) // slashes too: Conjur's identifiers have them
	}
	u.RawQuery = strings.ReplaceAll(r.query.Encode(), "+", "%20")
	method, body := http.MethodGet, io.Reader(nil)
	if r.form != "" {
		method, body = http.MethodPost, strings.NewReader(r.form)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, errors.New("no URL can be made of it")
	}
	req.Header.Set("User-Agent", "keywell")
	if r.form != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	if r.token.Len() > 0 {
		req.Header.Set("Authorization", `Token token="`+string(r.token.Reveal())+`"`)
	}
	if r.base64 {
		req.Header.Set("Accept-Encoding", "base64")
	}
	return req, nil
}
