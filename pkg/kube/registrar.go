package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// lookInterval is how often the registrar looks for the CSI socket, and after its own one.
const lookInterval = time.Second

// RegistrarOptions configure a Registrar.
type RegistrarOptions struct {
	Name       string                // CSI driver name; required
	Socket     string                // path of the CSI socket here, which must be served before the kubelet is told; required
	Endpoint   string                // path of the CSI socket as the kubelet sees it; default Socket
	Directory  string                // the kubelet's plugins_registry directory; required
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Registrar tells the kubelet of the CSI driver, through the kubelet's plugin watcher: it serves a socket in a
// directory that the kubelet watches. A kubelet that restarts finds the socket again by itself. Source:
// https://kubernetes.io/docs/reference/node/kubelet-files/ and Kubernetes, pkg/kubelet/pluginmanager/pluginwatcher.
type Registrar struct {
	registration.UnimplementedRegistrationServer
	opts       RegistrarOptions
	path       string
	registered atomic.Bool
}

// NewRegistrar returns a Registrar; Run makes it known.
func NewRegistrar(opts RegistrarOptions) (*Registrar, error) {
	if opts.Name == "" || !filepath.IsAbs(opts.Socket) || !filepath.IsAbs(opts.Directory) {
		return nil, errors.New("registrar needs a Name, and absolute paths of the Socket and the Directory")
	}
	if opts.Endpoint == "" {
		opts.Endpoint = opts.Socket
	}
	opts.Logger = orDiscard(opts.Logger)
	r := &Registrar{opts: opts, path: filepath.Join(opts.Directory, opts.Name+"-reg.sock")}
	promauto.With(opts.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywell_kube_registered",
		Help: "1 while the kubelet says that it has registered the CSI driver.",
	}, func() float64 {
		if r.registered.Load() {
			return 1
		}
		return 0
	})
	return r, nil
}

// Registered reports whether the kubelet said last that it has registered the driver.
func (r *Registrar) Registered() bool { return r.registered.Load() }

// Run registers the driver as soon as its CSI socket is served, and keeps it registered until ctx ends. Then it takes
// the socket away, by which the kubelet knows that the driver has gone, and returns nil.
func (r *Registrar) Run(ctx context.Context) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var socket *socket
	defer func() { socket.close() }()
	for {
		socket = r.keep(socket)
		select {
		case <-ctx.Done():
			r.registered.Store(false)
			return nil
		case <-tick.C:
		}
	}
}

// keep returns s while it is in its place, and a new one where there is none. A socket of somebody else is left alone:
// during an update of the DaemonSet it is the next agent's.
func (r *Registrar) keep(s *socket) *socket {
	found, err := os.Lstat(r.path)
	switch {
	case s == nil && !served(r.opts.Socket):
		return nil
	case s != nil && err == nil && os.SameFile(found, s.file):
		return s
	case s != nil && err == nil:
		r.registered.Store(false)
		return s
	case s != nil:
		r.opts.Logger.Warn("registration socket disappeared", "path", r.path)
		r.registered.Store(false)
		s.close()
	}
	s, err = r.listen()
	if err != nil {
		r.opts.Logger.Error("registration socket can't be made, trying again", "path", r.path, "err", err)
		return nil
	}
	r.opts.Logger.Info("registration socket made", "path", r.path)
	return s
}

// served tells whether somebody accepts connections on the Unix socket at path.
func served(path string) bool {
	conn, err := net.DialTimeout("unix", path, lookInterval)
	if err != nil {
		return false
	}
	_ = conn.Close() // only its being there matters
	return true
}

// socket is a registration socket that is being served.
type socket struct {
	server *grpc.Server
	path   string
	file   fs.FileInfo // of the socket file
}

// listen serves a new socket and then moves it to its place, over one that an earlier agent left: the kubelet never
// finds one that does not answer. It overlooks names that begin with a dot.
func (r *Registrar) listen() (*socket, error) {
	temporary := filepath.Join(r.opts.Directory, "."+filepath.Base(r.path))
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	config := net.ListenConfig{Control: private}
	l, err := config.Listen(context.Background(), "unix", temporary)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the name is another's by then
	s := &socket{server: grpc.NewServer(), path: r.path}
	registration.RegisterRegistrationServer(s.server, r)
	go func() { _ = s.server.Serve(l) }() // ends by Stop alone, or with a listener that keep then finds gone
	if s.file, err = os.Lstat(temporary); err == nil {
		err = os.Rename(temporary, r.path)
	}
	if err != nil {
		s.server.Stop()
		return nil, errors.Join(err, os.Remove(temporary))
	}
	return s, nil
}

// private sets the mode of a socket before it is bound: the file has it from the moment it appears.
func private(_, _ string, c syscall.RawConn) error {
	var chmod error
	if err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) }); err != nil {
		return err
	}
	return chmod
}

// close takes the socket away, unless another has taken its place. A nil socket is closed already.
func (s *socket) close() {
	if s == nil {
		return
	}
	if found, err := os.Lstat(s.path); err == nil && os.SameFile(found, s.file) {
		_ = os.Remove(s.path) // left behind it is a dead socket, which the next agent replaces
	}
	s.server.Stop()
}

// GetInfo tells the kubelet what is registered.
func (r *Registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.opts.Name,
		Endpoint:          r.opts.Endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus takes note of what the kubelet made of it. After a failure the kubelet tries again by itself.
func (r *Registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	r.registered.Store(s.PluginRegistered)
	if s.PluginRegistered {
		r.opts.Logger.Info("registered with the kubelet", "driver", r.opts.Name)
	} else {
		r.opts.Logger.Error("the kubelet refused the registration", "driver", r.opts.Name, "err", fmt.Sprintf("%q", s.Error))
	}
	return &registration.RegistrationStatusResponse{}, nil
}
