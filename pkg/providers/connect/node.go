package connect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	nodeTimeout = 3 * time.Second // outside the cloud nobody answers, and nobody refuses
	nodeAnswer  = 64 << 10
	tokenLife   = "60" // seconds: one login's
)

// Node asks a cloud's metadata service, which answers whoever is on the node, for what the node itself may do.
type Node struct {
	http *http.Client
	url  string
}

// NewNode returns a Node that is asked at url, past any proxy. Connections are not kept: it is asked once an hour.
func NewNode(dial Dialer, url string) Node {
	t := Transport(dial)
	t.Proxy, t.DisableKeepAlives = nil, true
	return Node{&http.Client{Transport: t, CheckRedirect: NeverFollow, Timeout: nodeTimeout}, url}
}

// Token asks for a token that later requests carry, with a header that says for how long. It is empty if the service knows
// none, and takes requests without one: an older one. The error is Unavailable if nobody answers.
func (n Node) Token(ctx context.Context, path, lifeHeader string) (string, error) {
	token, err := n.Ask(ctx, http.MethodPut, path, http.Header{lifeHeader: {tokenLife}})
	if _, nobody := errors.AsType[*url.Error](err); nobody {
		return "", err
	}
	return token, nil
}

// Ask returns the answer to one request for what is at path. The error is Denied if the node says that there is nothing,
// and else Unavailable.
func (n Node) Ask(ctx context.Context, method, path string, header http.Header) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, n.url+path, nil)
	if err != nil {
		return "", providers.Errorf(providers.Invalid, "%s of %s: no URL can be made of it", method, path)
	}
	if header != nil {
		r.Header = header
	}
	resp, err := n.http.Do(r)
	if err != nil {
		return "", providers.Errorf(providers.Unavailable, "the node's metadata service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, nodeAnswer))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return "", providers.Errorf(providers.Denied, "the node's metadata service has no %s", path)
	case err != nil || resp.StatusCode != http.StatusOK:
		return "", providers.Errorf(providers.Unavailable, "the node's metadata service answered %d", resp.StatusCode)
	}
	return strings.TrimSpace(string(body)), nil
}
