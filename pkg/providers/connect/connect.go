// Package connect makes the HTTP connections that one store has for itself. They end with the store, and nothing that a
// store says makes a request go elsewhere: what is signed, and what carries a token, stays where it was meant for.
//
// The drivers use it, each below its SDK.
package connect

import (
	"context"
	"net"
	"net/http"
)

// Dialer makes connections; nil stands for the usual way. Tests have one that can't leave the machine.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Transport returns connections like those of http.DefaultTransport, but for one store alone.
func Transport(dial Dialer) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if dial != nil {
		t.DialContext = dial
	}
	return t
}

// Client returns a client with connections of its own, which follows no redirect: the answer is then the redirect.
func Client(dial Dialer) *http.Client {
	return &http.Client{Transport: Transport(dial), CheckRedirect: NeverFollow}
}

// NeverFollow is the CheckRedirect of a client that follows no redirect.
func NeverFollow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
