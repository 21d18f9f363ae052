package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownPath is the namespace that the calling thread is in.
const ownPath = "/proc/thread-self/ns/net"

// Listen listens on TCP addresses, IP:port, in the network namespace that path leads to, on all or none. A path is a
// file that the namespace is mounted on, or one in /proc/PID/ns. When Listen returns, only the listeners hold the
// namespace. The error is ErrGone, ErrOwn, or says which address it is about and wraps what the kernel said: EADDRINUSE
// for one that a process there has, EADDRNOTAVAIL for one that the namespace does not have.
func Listen(ctx context.Context, path string, addresses ...string) ([]net.Listener, error) {
	target, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace %q: %w", path, err)
	}
	defer unix.Close(target)
	var listeners []net.Listener
	if err := inside(target, func() (err error) {
		listeners, err = listen(ctx, addresses)
		return err
	}); err != nil {
		return nil, fmt.Errorf("network namespace %q: %w", path, err)
	}
	return listeners, nil
}

// open returns a handle on a network namespace that is not the process' own.
func open(path string) (fd int, err error) {
	// A path may be replaced by a FIFO, say, which must not hold the agent up.
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESRCH):
		return -1, ErrGone
	case err != nil:
		return -1, fmt.Errorf("open: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	// Before the runtime has mounted the namespace on its file, and after it has unmounted it, that is an empty file.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return -1, fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return -1, ErrGone
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return -1, errors.New("it is a namespace of another kind")
	}
	var theirs, own unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &theirs), unix.Stat(ownPath, &own)); err != nil {
		return -1, fmt.Errorf("stat: %w", err)
	}
	if theirs.Dev == own.Dev && theirs.Ino == own.Ino {
		return -1, ErrOwn
	}
	return fd, nil
}

// inside runs do on a thread that is in a namespace.
func inside(target int, do func() error) error {
	result := make(chan error, 1)
	go onThread(func() (back bool) {
		err, back := visit(target, do)
		result <- err
		return back
	})
	return <-result
}

// onThread runs visit on a thread of its own, which ends with it if visit has not come back. The main thread is kept
// busy instead: the Go runtime parks it for ever where another would end, in whatever namespace it is.
func onThread(visit func() (back bool)) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			onThread(visit)
		}()
		<-done
		return
	}
	if visit() {
		runtime.UnlockOSThread()
	}
}

// visit takes the calling thread into a namespace, runs do, and takes the thread back. It reports whether the thread is
// where it was.
func visit(target int, do func() error) (err error, back bool) {
	home, err := unix.Open(ownPath, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the agent's own namespace: %w", err), true
	}
	defer unix.Close(home)
	if err := unix.Setns(target, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter: %w", err), true
	}
	err = do()
	// What do has made is good even if the thread is lost.
	return err, unix.Setns(home, unix.CLONE_NEWNET) == nil
}

// listen listens in the namespace that the calling thread is in. Addresses are numbers, so that nothing is looked up and
// everything happens on this thread.
func listen(ctx context.Context, addresses []string) ([]net.Listener, error) {
	config := net.ListenConfig{Control: onLoopback}
	config.SetMultipathTCP(false) // loopback has one path
	var listeners []net.Listener
	for _, address := range addresses {
		l, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			for _, l := range listeners {
				_ = l.Close() // nothing was accepted
			}
			return nil, fmt.Errorf("listen on %s: %w", address, cause(err))
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// onLoopback has a socket that is to listen on a loopback address take only what comes by the loopback interface. The
// address alone is no promise: where route_localnet is set, which a pod may have inherited from its node's network
// (kube-proxy sets it there), the kernel delivers packets to 127.0.0.1 that a neighbour has sent.
func onLoopback(_, address string, socket syscall.RawConn) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil || !host.Addr().IsLoopback() {
		return nil
	}
	var bound error
	err = socket.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), "lo") })
	return errors.Join(err, os.NewSyscallError("bind to lo", bound))
}

// cause is what the kernel said, without net's repetition of the address.
func cause(err error) error {
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		return call
	}
	return err
}
