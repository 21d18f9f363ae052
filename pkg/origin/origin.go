package origin

import (
	"net"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/scope"
)

// maxConnections is how many connections one source may have at a time. Further ones wait to be accepted.
const maxConnections = 256

// The waits before another attempt after an accept that failed: out of file descriptors, say. They are net/http's.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = time.Second
)

// Way says which kind of socket a connection came in by.
type Way string

// The ways.
const (
	Localhost Way = "localhost" // a listener in the pod's network namespace
	Socket    Way = "socket"    // a Unix socket in the pod's volume
)

// Addr is the remote address of a connection: whose socket it came in by. It must not be changed.
type Addr struct {
	Way Way
	// Identity is what is known of the pod since the socket was made: its namespace, name and UID, at least.
	Identity scope.Identity
}

// Network returns the way.
func (a *Addr) Network() string { return string(a.Way) }

// String returns the pod's namespace and name.
func (a *Addr) String() string { return a.Identity.Namespace + "/" + a.Identity.Pod }

// Listener is a net.Listener that accepts what comes in by any of its sources. It is safe for concurrent use.
type Listener struct {
	accepted chan net.Conn
	done     chan struct{}

	mu      sync.Mutex
	closed  bool
	sources map[*Source]bool
}

// New returns a Listener without sources.
func New() *Listener {
	return &Listener{accepted: make(chan net.Conn), done: make(chan struct{}), sources: map[*Source]bool{}}
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr is that of no socket in particular.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: "pods", Net: "origin"} }

// Close closes the sockets of all sources, and those that are added later. Connections stay, for their calls to end.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	for s := range l.sources {
		s.hangUp(false)
	}
	clear(l.sources)
	return nil
}

// Add accepts connections on a pod's sockets, which it takes over, until the Source is closed.
func (l *Listener) Add(from Addr, sockets ...net.Listener) *Source {
	s := &Source{
		listener: l, addr: &from, sockets: sockets,
		done: make(chan struct{}), slots: make(chan struct{}, maxConnections), open: map[net.Conn]bool{},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		s.hangUp(false)
		return s
	}
	l.sources[s] = true
	for _, socket := range sockets {
		go s.accept(socket)
	}
	return s
}

// Source is the sockets of one pod.
type Source struct {
	listener *Listener
	addr     *Addr
	sockets  []net.Listener
	done     chan struct{}
	slots    chan struct{} // one for each connection, and for each socket that waits for one

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

// Close closes the sockets and every connection that came in by them.
func (s *Source) Close() {
	s.listener.mu.Lock()
	delete(s.listener.sources, s)
	s.listener.mu.Unlock()
	s.hangUp(true)
}

// hangUp closes the sockets and, if connections is set, those too.
func (s *Source) hangUp(connections bool) {
	s.mu.Lock()
	first, open := !s.closed, s.open
	s.closed = true
	if connections {
		s.open = nil
	}
	s.mu.Unlock()
	if first {
		close(s.done)
		for _, socket := range s.sockets {
			_ = socket.Close() // whatever it says, nobody listens any more
		}
	}
	if connections {
		for c := range open {
			_ = c.Close()
		}
	}
}

// accept passes on the connections of one socket.
func (s *Source) accept(socket net.Listener) {
	pause := firstPause
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			return
		}
		c, err := socket.Accept()
		if err == nil {
			pause = firstPause
			s.pass(c)
			continue
		}
		<-s.slots
		select {
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		case <-s.done:
			return
		}
	}
}

// pass hands a connection to whoever accepts from the listener.
func (s *Source) pass(c net.Conn) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = c.Close()
		return
	}
	s.open[c] = true
	s.mu.Unlock()
	select {
	case s.listener.accepted <- s.attributed(c):
	case <-s.done:
		s.forget(c)
		_ = c.Close()
	}
}

// forget gives the slot of a connection back. It may be called several times.
func (s *Source) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[c] {
		delete(s.open, c)
		<-s.slots
	}
}

// attributed returns c with the source's address. The types of package net stay visible, because servers look for what
// they can do beside net.Conn.
func (s *Source) attributed(c net.Conn) net.Conn {
	switch c := c.(type) {
	case *net.TCPConn:
		return &tcpConn{TCPConn: c, source: s}
	case *net.UnixConn:
		return &unixConn{UnixConn: c, source: s}
	default:
		return &otherConn{Conn: c, source: s}
	}
}

type tcpConn struct {
	*net.TCPConn
	source *Source
}

func (c *tcpConn) RemoteAddr() net.Addr { return c.source.addr }
func (c *tcpConn) Close() error         { c.source.forget(c.TCPConn); return c.TCPConn.Close() }

type unixConn struct {
	*net.UnixConn
	source *Source
}

func (c *unixConn) RemoteAddr() net.Addr { return c.source.addr }
func (c *unixConn) Close() error         { c.source.forget(c.UnixConn); return c.UnixConn.Close() }

type otherConn struct {
	net.Conn
	source *Source
}

func (c *otherConn) RemoteAddr() net.Addr { return c.source.addr }
func (c *otherConn) Close() error         { c.source.forget(c.Conn); return c.Conn.Close() }
