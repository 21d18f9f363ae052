package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/netns"
	"github.com/keywell/keywell/pkg/netns/netnstest"
)

// mainThread takes what is to run on the process' main thread.
var mainThread = make(chan func())

func init() { runtime.LockOSThread() } // the main goroutine stays on the main thread

func TestMain(m *testing.M) {
	code := make(chan int)
	go func() { code <- m.Run() }()
	for {
		select {
		case do := <-mainThread:
			do()
		case c := <-code:
			os.Exit(c)
		}
	}
}

const (
	ipv4 = "127.0.0.1:3500"
	ipv6 = "[::1]:3500"
)

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// ask connects in the namespace and returns what is sent to it.
func ask(t *testing.T, n *netnstest.Namespace, address string) (string, error) {
	t.Helper()
	conn, err := n.Dial(t.Context(), address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// say answers every connection with a word until the listener is closed.
func say(l net.Listener, word string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, word)
		_ = conn.Close()
	}
}

// TestListen has two namespaces listen on the same addresses: who connects in one reaches the listener made for it.
func TestListen(t *testing.T) {
	a, b, bare := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	for n, word := range map[*netnstest.Namespace]string{a: "a", b: "b"} {
		listeners, err := netns.Listen(t.Context(), n.Path(), ipv4, ipv6)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(listeners)
		for _, l := range listeners {
			go say(l, word)
		}
	}
	for _, address := range []string{ipv4, ipv6} {
		for n, want := range map[*netnstest.Namespace]string{a: "a", b: "b"} {
			if got, err := ask(t, n, address); err != nil || got != want {
				t.Errorf("%s in %s: %q, %v", address, want, got, err)
			}
		}
		if _, err := ask(t, bare, address); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s in a namespace where nobody listens: %v", address, err)
		}
		if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = conn.Close()
			t.Errorf("%s is open in the process' own namespace", address)
		}
	}
}

// TestNothingIsPinned asserts that the listeners alone hold the namespace.
func TestNothingIsPinned(t *testing.T) {
	n := netnstest.New(t)
	listeners, err := netns.Listen(t.Context(), n.Path(), ipv4, ipv6)
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Holders(t); len(got) != len(listeners) {
		t.Errorf("%d listeners, but the namespace is held by %v", len(listeners), got)
	}
	closeAll(listeners)
	if got := n.Holders(t); len(got) != 0 {
		t.Errorf("after their end it is held by %v", got)
	}
}

func TestRefusals(t *testing.T) {
	taken, without6, down := netnstest.New(t), netnstest.New(t), netnstest.NewDown(t)
	l, err := taken.Listen(ipv6)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := without6.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		want       error
		text       string
	}{
		{"a port that a process has", taken.Path(), unix.EADDRINUSE, "listen on [::1]:3500"},
		{"no IPv6", without6.Path(), unix.EADDRNOTAVAIL, "listen on [::1]:3500"},
		{"loopback is down", down.Path(), unix.EADDRNOTAVAIL, "listen on [::1]:3500"},
		{"the process' own", "/proc/self/ns/net", netns.ErrOwn, ""},
		{"no file", filepath.Join(dir, "none"), netns.ErrGone, dir},
		{"below a file", filepath.Join(file, "none"), netns.ErrGone, ""},
		{"a process that has ended", "/proc/4194305/ns/net", netns.ErrGone, ""},
		{"a file where no namespace is mounted", file, netns.ErrGone, ""},
		{"a FIFO", fifo, netns.ErrGone, ""},
		{"a namespace of another kind", "/proc/self/ns/mnt", nil, "another kind"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			listeners, err := netns.Listen(t.Context(), test.path, ipv4, ipv6)
			if err == nil {
				closeAll(listeners)
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), test.text) || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("%v, want %v and %q", err, test.want, test.text)
			}
		})
	}
	for name, n := range map[string]*netnstest.Namespace{"taken": taken, "without IPv6": without6, "down": down} {
		if _, err := ask(t, n, ipv4); err == nil {
			t.Errorf("%s: the other address is left open", name)
		}
	}
	if _, err := taken.Dial(t.Context(), ipv6); err != nil {
		t.Errorf("the listener that was there: %v", err)
	}
}

// TestLostThread has threads that can't come back, the main thread among those that were asked: none stays in the
// namespace, and the main thread was never there.
func TestLostThread(t *testing.T) {
	n := netnstest.New(t)
	enter := func() (back bool) {
		target, err := unix.Open(n.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(target)
			err = unix.Setns(target, unix.CLONE_NEWNET)
		}
		if err != nil || unix.Gettid() == unix.Getpid() {
			t.Errorf("enter: %v, as thread %d of process %d", err, unix.Gettid(), unix.Getpid())
		}
		return false
	}
	for _, onMain := range []bool{false, true} {
		t.Run(fmt.Sprintf("from the main thread: %t", onMain), func(t *testing.T) {
			done := make(chan struct{})
			call := func() { defer close(done); netns.OnThread(enter) }
			if onMain {
				mainThread <- call
			} else {
				go call()
			}
			<-done
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for len(n.Holders(t)) > 0 { // the kernel takes a moment to end a thread
				if ctx.Err() != nil {
					t.Fatalf("the namespace is held by %v", n.Holders(t))
				}
				runtime.Gosched()
			}
		})
	}
}

// TestThreadsComeBack looks for threads that were left behind after many visits at one time.
func TestThreadsComeBack(t *testing.T) {
	n := netnstest.New(t)
	results := make(chan error)
	const visits = 50
	for i := range visits {
		go func() {
			listeners, err := netns.Listen(t.Context(), n.Path(), fmt.Sprintf("127.0.0.1:%d", 4000+i))
			closeAll(listeners)
			results <- err
		}()
	}
	for range visits {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if got := n.Holders(t); len(got) != 0 {
		t.Errorf("the namespace is held by %v", got)
	}
}

// TestNeighbour has a neighbour send packets for 127.0.0.1 by the network that it shares with a namespace whose kernel
// would take them: with route_localnet, which is inherited from the node. The listeners are for the namespace alone.
func TestNeighbour(t *testing.T) {
	victim, neighbour := netnstest.New(t), netnstest.New(t)
	routeLocalnet := func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0) }
	if err := neighbour.Do(func() error {
		return errors.Join(routeLocalnet(), run(
			"ip link add eth0 type veth peer name eth0 netns "+fmt.Sprintf("/proc/%d/fd/%s", os.Getpid(), filepath.Base(victim.Path())),
			"ip address add 10.1.1.2/24 dev eth0",
			"ip link set eth0 up",
			"ip address del 127.0.0.1/8 dev lo", // as NET_ADMIN may
			"ip route add 127.0.0.1 via 10.1.1.1 src 10.1.1.2",
		))
	}); err != nil {
		t.Fatal(err)
	}
	if err := victim.Do(func() error {
		return errors.Join(routeLocalnet(), run("ip address add 10.1.1.1/24 dev eth0", "ip link set eth0 up"))
	}); err != nil {
		t.Fatal(err)
	}
	careless, err := victim.Listen("127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer careless.Close()
	go say(careless, "careless")
	if got, err := ask(t, neighbour, "127.0.0.1:80"); err != nil || got != "careless" {
		t.Fatalf("the neighbour can't try, because its packets do not arrive: %q, %v", got, err)
	}

	listeners, err := netns.Listen(t.Context(), victim.Path(), ipv4, ipv6)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(listeners)
	for _, l := range listeners {
		go say(l, "secret")
	}
	if got, err := ask(t, neighbour, ipv4); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the neighbour gets %q, %v", got, err)
	}
	if got, err := ask(t, victim, ipv4); err != nil || got != "secret" {
		t.Errorf("the namespace itself gets %q, %v", got, err)
	}
}

// run runs commands in the namespace of the calling thread.
func run(commands ...string) error {
	for _, command := range commands {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out)
		}
	}
	return nil
}

func BenchmarkListen(b *testing.B) {
	n := netnstest.New(b)
	for b.Loop() {
		listeners, err := netns.Listen(b.Context(), n.Path(), ipv4, ipv6, "127.0.0.1:50001", "[::1]:50001")
		if err != nil {
			b.Fatal(err)
		}
		closeAll(listeners)
	}
}
