package vault

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// client speaks to one Vault. Retries are the resolver's business.
type client struct {
	api       *api.Client
	addr      *url.URL
	transport *http.Transport
	events    *http.Transport // the same, but for HTTP/1.1: no other can be upgraded
	namespace string
}

// maxAnswer is more than Vault accepts in a request, and so more than it has to say.
const maxAnswer = 32 << 20

func newClient(c config) (*client, error) {
	tlsClient, err := c.tls.clientConfig(c.addr.Hostname())
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     tlsClient,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
	}
	cfg := api.DefaultConfig()
	if cfg.Error != nil { // a VAULT_… variable of the agent's environment
		return nil, providers.Errorf(providers.Invalid, "the environment of the agent has a faulty setting of Vault's")
	}
	*cfg = api.Config{
		Address:          c.addr.String(),
		HttpClient:       &http.Client{Transport: guard{next: transport, addr: c.addr}, CheckRedirect: neverFollow},
		MaxRetries:       0,
		DisableRedirects: true,
		ReadYourWrites:   true, // X-Vault-Index
	}
	made, err := api.NewClient(cfg)
	if err != nil {
		return nil, invalid("vaultAddr", "is not an address of Vault")
	}
	made.ClearToken()
	made.ClearNamespace()
	if c.namespace != "" {
		made.SetNamespace(c.namespace)
	}
	events := transport.Clone()
	events.ForceAttemptHTTP2, events.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	events.TLSClientConfig.NextProtos = nil
	return &client{api: made, addr: c.addr, transport: transport, events: events, namespace: c.namespace}, nil
}

func (c *client) close() {
	c.transport.CloseIdleConnections()
	c.events.CloseIdleConnections()
}

// request is one call of Vault's API.
type request struct {
	method string
	path   string // below /v1/, as it is: it is escaped on the way
	query  url.Values
	body   map[string]any
	token  secret.Value // empty: none
}

// answer is what Vault says in every answer. Its data is kept as it was written.
type answer struct {
	Data          map[string]json.RawMessage `json:"data"`
	LeaseID       string                     `json:"lease_id"`
	LeaseDuration int64                      `json:"lease_duration"` // seconds
	Renewable     bool                       `json:"renewable"`
	Auth          *authAnswer                `json:"auth"`

	at time.Time // by Vault's clock; zero: it did not say
}

// until returns how long after it was asked for something of an answer ends, of which Vault gives the time by its clock.
func (a answer) until(end, asked time.Time) time.Time {
	if a.at.IsZero() {
		return end
	}
	return asked.Add(end.Sub(a.at))
}

// authAnswer is what a login returns.
type authAnswer struct {
	Token     string `json:"client_token"`
	TTL       int64  `json:"lease_duration"` // seconds; 0: it does not expire
	Renewable bool   `json:"renewable"`
}

// do calls Vault once. The error has a Kind.
func (c *client) do(ctx context.Context, r request) (answer, error) {
	req := c.api.NewRequest(r.method, "/v1/")
	req.URL.Path, req.URL.RawPath = c.addr.Path+"/v1/"+r.path, ""
	req.Params = r.query
	req.WrapTTL = ""
	req.ClientToken = string(r.token.Reveal())
	if r.body != nil {
		if err := req.SetJSONBody(r.body); err != nil {
			return answer{}, providers.Errorf(providers.Invalid, "the arguments can't be written as JSON")
		}
	}
	//lint:ignore SA1019 The methods above it read the answer in a way that loses numbers, and join paths, which cleans names.
	resp, err := c.api.RawRequestWithContext(ctx, req)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		return answer{}, failure(ctx, r, resp, err)
	}
	var a answer
	a.at, _ = http.ParseTime(resp.Header.Get("Date")) // none is none
	if resp.StatusCode == http.StatusNoContent {
		return a, nil
	}
	switch err := json.NewDecoder(resp.Body).Decode(&a); {
	case ctx.Err() != nil:
		return answer{}, ended(ctx, r)
	case errors.Is(err, io.EOF): // an empty answer, which some writes have
		return answer{}, nil
	case err != nil:
		return answer{}, providers.Errorf(providers.Unavailable, "%s: the answer is not Vault's JSON", r)
	}
	return a, nil
}

// String names the call without its arguments.
func (r request) String() string { return r.method + " " + r.path }

func neverFollow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// guard keeps requests, which carry tokens, with the configured host: it follows one redirect there and leaves any other
// to be reported. It also bounds answers.
type guard struct {
	next http.RoundTripper
	addr *url.URL
}

// RoundTrip sends req, and once more to where the same host wants it.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if to, ok := g.followed(resp); ok && (req.Body == nil || req.GetBody != nil) {
		again := req.Clone(req.Context())
		again.URL, again.Host = to, ""
		if req.GetBody != nil {
			if again.Body, err = req.GetBody(); err != nil {
				return resp, nil // the redirect itself is the answer then
			}
		}
		resp.Body.Close()
		if resp, err = g.next.RoundTrip(again); err != nil {
			return nil, err
		}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// followed returns where a redirect leads, if that is the same host.
func (g guard) followed(resp *http.Response) (*url.URL, bool) {
	if resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusPermanentRedirect {
		return nil, false
	}
	to, err := resp.Location()
	return to, err == nil && to.Scheme == g.addr.Scheme && to.Host == g.addr.Host
}
