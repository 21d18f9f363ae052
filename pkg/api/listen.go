package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Listeners are the sockets that a Server accepts connections on. On those of Plugin it is a pluggable secret store of a
// daprd, to callers whom Attest knows by their connection alone.
type Listeners struct{ HTTP, GRPC, Plugin []net.Listener }

// Addresses say where to listen.
type Addresses struct {
	HTTP, GRPC []string // TCP addresses, host:port
	// SocketDir, if set, replaces the TCP addresses by the Unix sockets dapr-<AppID>-http.socket and
	// dapr-<AppID>-grpc.socket in this directory, as Dapr's --unix-domain-socket does.
	SocketDir string
	AppID     string
	// PluginSocket, if set, is the path of the Unix socket for a daprd, which only its owner and group can connect to.
	PluginSocket string
}

// Listen opens the sockets of a, all or none. A Unix socket that nobody listens to any more is replaced.
func Listen(ctx context.Context, a Addresses) (Listeners, error) {
	network, http, grpc := "tcp", a.HTTP, a.GRPC
	if a.SocketDir != "" {
		if filepath.Base(a.AppID) != a.AppID {
			return Listeners{}, fmt.Errorf("app id %q can't be part of a socket's name", a.AppID)
		}
		network = "unix"
		http = []string{filepath.Join(a.SocketDir, "dapr-"+a.AppID+"-http.socket")}
		grpc = []string{filepath.Join(a.SocketDir, "dapr-"+a.AppID+"-grpc.socket")}
	}
	var l Listeners
	var err error
	if l.HTTP, err = listenAll(ctx, network, http); err != nil {
		return Listeners{}, err
	}
	if l.GRPC, err = listenAll(ctx, network, grpc); err != nil {
		closeAll(l.HTTP)
		return Listeners{}, err
	}
	if l.Plugin, err = listenForPlugin(ctx, a.PluginSocket); err != nil {
		closeAll(l.HTTP)
		closeAll(l.GRPC)
		return Listeners{}, err
	}
	return l, nil
}

// listenForPlugin opens the socket at path, if there is to be one. Who can write to the file can connect.
func listenForPlugin(ctx context.Context, path string) ([]net.Listener, error) {
	if path == "" {
		return nil, nil
	}
	listeners, err := listenAll(ctx, "unix", []string{path})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		closeAll(listeners)
		return nil, err
	}
	return listeners, nil
}

func listenAll(ctx context.Context, network string, addresses []string) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, address := range addresses {
		l, err := listen(ctx, network, address)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "unix" {
		if err := removeLeftover(ctx, address); err != nil {
			return nil, err
		}
	}
	var config net.ListenConfig
	return config.Listen(ctx, network, address)
}

// removeLeftover removes the socket at path if it is one that a dead process left behind.
func removeLeftover(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("the file there is not a socket")
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return errors.New("another process listens there")
	}
	return os.Remove(path)
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // nothing was accepted
	}
}
