package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
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
)

var socketNames = []string{httpSocket, grpcSocket}

// openSockets makes the sockets of a volume in its root, if it asks for them and has none of this process. Those that an
// earlier process has left are replaced, each by one rename, so that there is always one to connect to. The caller has
// the volume's turn.
func (s *Set) openSockets(v *volume, r record, spec Spec, dir mount.Dir) error {
	if !spec.Socket || v.closeSockets != nil {
		return nil
	}
	if err := s.servesSockets(spec); err != nil {
		return err
	}
	var sockets []net.Listener
	for _, name := range socketNames {
		l, err := bindSocket(dir.Fd(), name, spec.socketMode(), spec.owner())
		if err != nil {
			for _, l := range sockets {
				_ = l.Close() // nothing was accepted
			}
			return fmt.Errorf("make %s: %w", name, err)
		}
		sockets = append(sockets, l)
	}
	v.closeSockets = s.opts.Serve(r.Identity, sockets[0], sockets[1])
	return nil
}

// servesSockets is nil unless a volume asks for sockets that nobody would serve.
func (s *Set) servesSockets(spec Spec) error {
	if spec.Socket && s.opts.Serve == nil {
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

// bindSocket listens on a Unix socket in a directory, in place of whatever has its name.
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
		err = unix.Renameat(dir, newSocket, dir, name)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), unix.Unlinkat(dir, newSocket, 0))
	}
	return l, nil
}

// isSocket tells whether e is a socket that may be in a volume.
func isSocket(e fs.DirEntry) bool {
	return e.Type() == fs.ModeSocket && slices.Contains(socketNames, e.Name())
}
