package origin_test

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywell/keywell/pkg/origin"
	"github.com/keywell/keywell/pkg/scope"
)

var (
	web = scope.Identity{Namespace: "shop", Pod: "web-0", PodUID: "1"}
	job = scope.Identity{Namespace: "shop", Pod: "job-7", PodUID: "2"}
)

func at(id scope.Identity) origin.Addr { return origin.Addr{Way: origin.Localhost, Identity: id} }

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// connect makes a connection to a socket and returns both of its ends.
func connect(t *testing.T, l *origin.Listener, socket net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial(socket.Addr().Network(), socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// TestAddr asserts that the socket tells who connects, on every kind of socket.
func TestAddr(t *testing.T) {
	tcp, tcp6 := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", "[::1]:0")
	unix := listen(t, "unix", filepath.Join(t.TempDir(), "socket"))
	l := origin.New()
	defer l.Close()
	l.Add(at(web), tcp, tcp6)
	l.Add(at(job), unix)
	for socket, want := range map[net.Listener]scope.Identity{tcp: web, tcp6: web, unix: job} {
		client, server := connect(t, l, socket)
		addr, ok := server.RemoteAddr().(*origin.Addr)
		if !ok || addr.Identity != want || addr.Way != origin.Localhost {
			t.Errorf("on %s: %v", socket.Addr(), server.RemoteAddr())
		}
		if addr.Network() != "localhost" || addr.String() != "shop/"+want.Pod {
			t.Errorf("it reads %s %s", addr.Network(), addr)
		}
		if _, ok := server.(syscall.Conn); !ok {
			t.Errorf("on %s: the connection is a %T, which hides its socket", socket.Addr(), server)
		}
		if _, err := io.WriteString(client, "x"); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
}

// TestSourceClose asserts that a pod's end is the end of its sockets and connections, and of no others.
func TestSourceClose(t *testing.T) {
	ours, theirs := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", "127.0.0.1:0")
	l := origin.New()
	defer l.Close()
	source := l.Add(at(web), ours)
	l.Add(at(job), theirs)
	gone, _ := connect(t, l, ours)
	stays, server := connect(t, l, theirs)

	source.Close()
	source.Close() // again is no harm
	if _, err := gone.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection goes on: %v", err)
	}
	if _, err := net.Dial("tcp", ours.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the socket is still open: %v", err)
	}
	if _, err := io.WriteString(server, "x"); err != nil {
		t.Errorf("another pod's connection: %v", err)
	}
	if _, err := io.ReadFull(stays, make([]byte, 1)); err != nil {
		t.Errorf("another pod's connection: %v", err)
	}
}

// TestListenerClose asserts that calls may end when the server shuts down, while nothing new comes in.
func TestListenerClose(t *testing.T) {
	socket, late := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", "127.0.0.1:0")
	l := origin.New()
	source := l.Add(at(web), socket)
	client, server := connect(t, l, socket)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	l.Add(at(job), late)
	for _, s := range []net.Listener{socket, late} {
		if _, err := net.Dial("tcp", s.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s is open: %v", s.Addr(), err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := io.WriteString(server, "x"); err != nil {
		t.Errorf("a call under way is cut off: %v", err)
	}
	source.Close()
	if _, err := io.ReadAll(client); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// pipes is a socket in memory.
type pipes struct {
	conns chan net.Conn
	fails chan error
	done  chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), fails: make(chan error), done: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.fails:
		return nil, err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// dial offers a connection and reports whether it was accepted within an hour.
func (p *pipes) dial() bool {
	_, server := net.Pipe()
	select {
	case p.conns <- server:
		return true
	case <-time.After(time.Hour):
		return false
	}
}

// TestManyConnections has one pod connect more often than it may: it waits, and another pod does not.
func TestManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		greedy, modest := newPipes(), newPipes()
		l := origin.New()
		l.Add(at(web), greedy)
		l.Add(at(job), modest)
		var accepted []net.Conn
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted = append(accepted, c)
			}
		}()
		n := 0
		for greedy.dial() {
			if n++; n > 1000 {
				t.Fatal("there is no limit")
			}
		}
		if n != 256 {
			t.Errorf("%d connections were accepted", n)
		}
		if !modest.dial() {
			t.Error("another pod has to wait")
		}
		synctest.Wait()
		_ = accepted[0].Close()
		_ = accepted[0].Close() // gives back one slot, not two
		if !greedy.dial() {
			t.Error("a connection that has ended still counts")
		}
		if greedy.dial() {
			t.Error("a connection that was closed twice counts as two")
		}
		_ = l.Close()
	})
}

// TestAcceptFails asserts that a socket goes on after errors, with pauses.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		l := origin.New()
		l.Add(at(web), p)
		go func() {
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
			}
		}()
		began := time.Now()
		for range 12 {
			p.fails <- syscall.EMFILE
		}
		if took := time.Since(began); took < 3*time.Second || took > 10*time.Second {
			t.Errorf("12 failures took %v", took)
		}
		if !p.dial() {
			t.Error("the socket is not served any more")
		}
		_ = l.Close()
	})
}
