package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Listen while another process serves the socket.
var ErrInUse = errors.New("another process serves the socket")

// Listener is a socket that calls can come in on, and the lock that keeps other agents off it.
type Listener struct {
	net.Listener
	lock *os.File
}

// Listen listens on the Unix socket that endpoint names: "unix:///path", or an absolute path. The socket has mode 0600
// from the moment it appears; a directory that does not exist is made, with mode 0700. The socket of an agent that was
// killed is replaced; the error is ErrInUse if a process still answers on it, and nothing but a socket is ever removed.
func Listen(endpoint string) (*Listener, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("endpoint %q is neither an absolute path nor unix:// followed by one", endpoint)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	lock, err := acquire(path + ".lock")
	if err != nil {
		return nil, err
	}
	l, err := listen(path)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Listener{Listener: l, lock: lock}, nil
}

// Close closes the socket, which removes it, and then gives up the lock. Serve does it.
func (l *Listener) Close() error { return errors.Join(l.Listener.Close(), l.lock.Close()) }

// acquire takes the lock that says which agent may replace the socket. Without it, two that start at one time could
// each find a dead socket, and the second would remove the first one's new one. The kernel releases it with the process.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the socket's lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

func listen(path string) (net.Listener, error) {
	if err := removeDead(path); err != nil {
		return nil, err
	}
	// The mode of a socket file is that of the socket at the time it is bound, less the umask.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		if err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return chmod
	}}
	return config.Listen(context.Background(), "unix", path)
}

// removeDead removes the socket at path if there is one that nobody listens on.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for an earlier socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("listen on %s: %w", path, ErrInUse), conn.Close())
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("find out whether %s is served: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove a dead socket: %w", err)
	}
	return nil
}
