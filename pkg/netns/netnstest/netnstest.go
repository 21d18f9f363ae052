// Package netnstest makes network namespaces for tests, and looks at who holds them.
package netnstest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace with nothing but loopback.
type Namespace struct {
	fd  int
	ino uint64
}

// New returns a new Namespace, in which loopback is up. It ends with the test, or with Remove. The test is skipped
// without root.
func New(t testing.TB) *Namespace {
	t.Helper()
	n := NewDown(t)
	if err := n.Do(bringUp); err != nil {
		t.Fatal(err)
	}
	return n
}

// NewDown is New with loopback down, as it is before the container runtime has set up the network.
func NewDown(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	n := &Namespace{fd: -1}
	if err := onThread(n.create); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Remove)
	return n
}

func (n *Namespace) create() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	var err error
	if n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	n.ino, err = inode(n.fd)
	return err
}

// Path is a path that leads to the namespace until Remove.
func (n *Namespace) Path() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }

// Remove lets go of the namespace, as the container runtime does when a pod ends.
func (n *Namespace) Remove() {
	if n.fd >= 0 {
		_ = unix.Close(n.fd)
		n.fd = -1
	}
}

// Do runs a func on a thread in the namespace, which ends then.
func (n *Namespace) Do(do func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// onThread runs do on a thread that ends with it, and waits for its end: until then, it holds the namespace. The main
// thread never would end; it is kept busy instead.
func onThread(do func() error) error {
	done, thread := make(chan error, 1), make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			thread <- unix.Gettid()
			done <- do()
			return
		}
		thread <- 0
		done <- onThread(do)
		runtime.UnlockOSThread()
	}()
	err := <-done
	if tid := <-thread; tid != 0 {
		for unix.Tgkill(unix.Getpid(), tid, 0) == nil { // no signal is sent
			time.Sleep(100 * time.Microsecond)
		}
	}
	return err
}

// Dial connects to an address, IP:port, in the namespace: it is what a process of the pod does.
func (n *Namespace) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
	dialer.SetMultipathTCP(false)
	err = n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// Listen listens on an address in the namespace, as a process of the pod may.
func (n *Namespace) Listen(address string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// Holders says which sockets and threads of this process keep the namespace alive, the Namespace itself aside.
func (n *Namespace) Holders(t testing.TB) (holders []string) {
	t.Helper()
	for _, name := range names(t, "/proc/self/fd") {
		fd, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		if of, err := namespaceOf(fd); err == nil && of == n.ino {
			holders = append(holders, "socket "+name)
		}
	}
	for _, name := range names(t, "/proc/self/task") {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join("/proc/self/task", name, "ns/net"), &st)
		if err == nil && st.Ino == n.ino { // one that has ended has no entry
			holders = append(holders, "thread "+name)
		}
	}
	return holders
}

// namespaceOf returns the inode of the network namespace of a socket.
func namespaceOf(socket int) (uint64, error) {
	fd, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return inode(fd)
}

func inode(fd int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Ino, err
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// bringUp sets the flag UP of lo in the calling thread's namespace.
func bringUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo)
}
