package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/volume/mount"
)

// The sockets of a volume that asks for them. They are beside the files and no part of a generation: a socket that is
// replaced by a rotation would be one more thing that can fail, for nothing.
const (
	httpSocket = "http.sock"
	grpcSocket = "grpc.sock"
	newSocket  = "..socket_tmp" // about to become one of them

	// A daprd takes everything in a directory for a plugin, so its socket has one of its own. The name of the socket makes
	// it the type secretstores.keywell.
	daprdDir    = "dapr-components"
	daprdSocket = daprdDir + "/keywell.sock"
)

// Sockets are the sockets of one volume. Nil: it has none of the kind.
type Sockets struct {
	HTTP, GRPC net.Listener // for the secrets API
	Plugin     net.Listener // for a daprd, as its pluggable secret store
}

// sockets returns the paths of the sockets that the volume asks for.
func (s Spec) sockets() (paths []string) {
	if s.Socket {
		paths = append(paths, httpSocket, grpcSocket)
	}
	if s.Plugin {
		paths = append(paths, daprdSocket)
	}
	return paths
}

// openSockets makes the sockets of a volume, if it asks for them and has none of this process. Those that an earlier
// process has left are replaced, each by one rename, so that there is always one to connect to. The caller has the
// volume's turn.
func (s *Set) openSockets(v *volume, r record, spec Spec, dir mount.Dir) error {
	paths := spec.sockets()
	if len(paths) == 0 || v.closeSockets != nil {
		return nil
	}
	if err := s.servesSockets(spec); err != nil {
		return err
	}
	open := make(map[string]net.Listener, len(paths))
	for _, name := range paths {
		l, err := bindSocket(dir.Fd(), name, spec.socketMode(), spec.owner())
		if err != nil {
			for _, l := range open {
				_ = l.Close() // nothing was accepted
			}
			return fmt.Errorf("make %s: %w", name, err)
		}
		open[name] = l
	}
	v.closeSockets = s.opts.Serve(r.Identity, Sockets{HTTP: open[httpSocket], GRPC: open[grpcSocket], Plugin: open[daprdSocket]})
	return nil
}

// servesSockets is nil unless a volume asks for sockets that nobody would serve.
func (s *Set) servesSockets(spec Spec) error {
	if len(spec.sockets()) > 0 && s.opts.Serve == nil {
		return &InvalidError{Problems: []string{fmt.Sprintf("volume attribute %q asks for a socket, and the agent does not serve the API", attrAPI)}}
	}
	return nil
}

// shutSockets ends the sockets of a volume: they hold its tmpfs. The caller has the volume's turn.
func (v *volume) shutSockets() {
	if v.closeSockets != nil {
		v.closeSockets()
		v.closeSockets = nil
	}
}

// socketMode lets those connect who may read the files: to connect is to write, for the kernel.
func (s Spec) socketMode() fs.FileMode {
	mode := s.Mode
	if mode == 0 {
		mode = s.defaultMode()
	}
	return mode&0o444 | mode&0o444>>1
}

// bindSocket listens on a Unix socket in a volume, in place of whatever is at its path. Until it is ready it is in the
// volume's own directory: a daprd that comes across a file which is gone a moment later fails.
func bindSocket(dir int, name string, mode fs.FileMode, o owner) (net.Listener, error) {
	if err := unix.Unlinkat(dir, newSocket, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("remove what is left of another: %w", err)
	}
	// A socket's address has room for 108 bytes, and a target path is longer.
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "unix", path.Join("/proc/self/fd", strconv.Itoa(dir), newSocket))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it has another name by then; clients find the next agent's
	err = errors.Join(
		unix.Fchownat(dir, newSocket, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW),
		unix.Fchmodat(dir, newSocket, uint32(mode.Perm()), 0),
	)
	if err == nil {
		err = placeSocket(dir, name)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), unix.Unlinkat(dir, newSocket, 0))
	}
	return l, nil
}

// placeSocket gives the new socket its path, and makes the directory above if there is to be one.
func placeSocket(dir int, name string) error {
	parent, last := path.Split(name)
	if parent == "" {
		return unix.Renameat(dir, newSocket, dir, name)
	}
	parent = path.Clean(parent)
	if err := makeDir(dir, parent); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fd, err := openDir(dir, parent)
	if err != nil {
		return err
	}
	return errors.Join(unix.Renameat(dir, newSocket, fd, last), unix.Close(fd))
}

// holdsSockets tells whether e is a socket that may be in a volume, or the directory of one.
func holdsSockets(e fs.DirEntry) bool {
	switch e.Name() {
	case httpSocket, grpcSocket:
		return e.Type() == fs.ModeSocket
	case daprdDir:
		return e.IsDir()
	}
	return false
}
