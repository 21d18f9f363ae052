// Package loopback keeps tests on this machine.
package loopback

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// Instead returns a Dialer that reaches another address, on loopback, in the place of one that code has built in, such as a cloud's
// metadata service.
func Instead(t testing.TB, builtIn, address string) func(ctx context.Context, network, address string) (net.Conn, error) {
	dial := Dialer(t)
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		if to == builtIn {
			to = address
		}
		return dial(ctx, network, to)
	}
}

// Dialer returns a dial function that reaches loopback addresses alone: any other fails the test, and a name is not even
// looked up.
func Dialer(t testing.TB) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil || !to.Addr().IsLoopback() {
			t.Errorf("the code under test dials %s, which is not on this machine", address)
			return nil, fmt.Errorf("%s is not a loopback address", address)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}
