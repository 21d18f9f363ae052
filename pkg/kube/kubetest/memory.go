package kubetest

import (
	"context"
	"net"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// AgentToken is the token in the Config of a server in memory. It may do everything until Allow says otherwise.
const AgentToken = "t0ken-of-the-agent"

// NewServerInMemory starts a server that is reached through pipes instead of sockets, by the returned configuration
// alone, so that it and its clients can live in a bubble of testing/synctest.
func NewServerInMemory(t testing.TB) (*Server, *rest.Config) {
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := newServer(t, l)
	s.Allow(AgentToken, Rule{})
	return s, &rest.Config{Host: "http://kubetest", BearerToken: AgentToken, Dial: l.dial, QPS: -1}
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "kubetest", Net: "unix"} }
