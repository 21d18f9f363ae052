package kube_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keywell/keywell/pkg/kube"
)

// kubelet is what a test does in its place.
type kubelet struct {
	*testing.T
	csi, registry string // paths: the CSI socket, the plugin directory
	socket        string // where the registration socket is to be
	registrar     *kube.Registrar
	stop          func() // ends Run, and waits for it
}

// newKubelet starts a registrar whose CSI socket is not served yet.
func newKubelet(t *testing.T) *kubelet {
	dir, err := os.MkdirTemp("", "kw") // short: the path of a Unix socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k := &kubelet{T: t, csi: filepath.Join(dir, "csi.sock"), registry: filepath.Join(dir, "reg")}
	k.socket = filepath.Join(k.registry, "csi.keywell.dev-reg.sock")
	if err := os.Mkdir(k.registry, 0o755); err != nil {
		t.Fatal(err)
	}
	k.registrar, err = kube.NewRegistrar(kube.RegistrarOptions{
		Name: "csi.keywell.dev", Socket: k.csi, Endpoint: "/var/lib/kubelet/plugins/csi.keywell.dev/csi.sock", Directory: k.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.registrar.Run(ctx) }()
	stopped := false
	k.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(k.stop)
	return k
}

func (k *kubelet) serveCSI() {
	l, err := net.Listen("unix", k.csi)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { _ = l.Close() })
}

// await returns the file of the registration socket, once there is one other than old.
func (k *kubelet) await(old os.FileInfo) os.FileInfo {
	k.Helper()
	for end := time.After(10 * time.Second); ; {
		if found, err := os.Lstat(k.socket); err == nil && !os.SameFile(old, found) {
			return found
		}
		select {
		case <-time.After(time.Millisecond):
		case <-end:
			k.Fatal("there is no registration socket")
		}
	}
}

// register does what the kubelet does when it finds the socket.
func (k *kubelet) register(ok bool) *registration.PluginInfo {
	k.Helper()
	conn, err := grpc.NewClient("unix:"+k.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		k.Fatal(err)
	}
	defer conn.Close()
	client := registration.NewRegistrationClient(conn)
	info, err := client.GetInfo(k.Context(), &registration.InfoRequest{})
	if err != nil {
		k.Fatal(err)
	}
	status := &registration.RegistrationStatus{PluginRegistered: ok}
	if !ok {
		status.Error = "not today"
	}
	if _, err := client.NotifyRegistrationStatus(k.Context(), status); err != nil {
		k.Fatal(err)
	}
	return info
}

func TestRegistration(t *testing.T) {
	k := newKubelet(t)
	if names, _ := os.ReadDir(k.registry); len(names) > 0 {
		t.Errorf("before CSI is served there is %v", names)
	}
	k.serveCSI()
	if mode := k.await(nil).Mode(); mode != os.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %v", mode)
	}
	want := &registration.PluginInfo{
		Type: "CSIPlugin", Name: "csi.keywell.dev", Endpoint: "/var/lib/kubelet/plugins/csi.keywell.dev/csi.sock", SupportedVersions: []string{"1.0.0"},
	}
	if diff := cmp.Diff(want, k.register(true), cmpopts.IgnoreUnexported(registration.PluginInfo{})); diff != "" {
		t.Errorf("info (-want +got):\n%s", diff)
	}
	if !k.registrar.Registered() {
		t.Error("not registered")
	}
	k.register(false)
	if k.registrar.Registered() {
		t.Error("registered, though the kubelet refused")
	}
	k.register(true) // a kubelet that restarts
	k.stop()
	if names, _ := os.ReadDir(k.registry); len(names) > 0 || k.registrar.Registered() {
		t.Errorf("after the end there is %v, registered %t", names, k.registrar.Registered())
	}
}

func TestSocketComesBack(t *testing.T) {
	k := newKubelet(t)
	k.serveCSI()
	k.await(nil)
	k.register(true)
	if err := os.Remove(k.socket); err != nil {
		t.Fatal(err)
	}
	k.await(nil)
	k.register(true)
}

// TestDeadSocketIsReplaced leaves what a killed agent does.
func TestDeadSocketIsReplaced(t *testing.T) {
	k := newKubelet(t)
	dead := listenAndDie(t, k.socket)
	listenAndDie(t, filepath.Join(k.registry, ".csi.keywell.dev-reg.sock"))
	k.serveCSI()
	k.await(dead)
	k.register(true)
}

// TestNextAgentsSocketIsLeft replaces the socket, as the next agent does during an update.
func TestNextAgentsSocketIsLeft(t *testing.T) {
	k := newKubelet(t)
	k.serveCSI()
	k.await(nil)
	k.register(true)
	if err := os.Remove(k.socket); err != nil {
		t.Fatal(err)
	}
	next := listenAndDie(t, k.socket)
	k.stop()
	if found, err := os.Lstat(k.socket); err != nil || !os.SameFile(found, next) {
		t.Errorf("the next agent's socket is gone: %v", err)
	}
}

// listenAndDie leaves a socket that nobody listens on.
func listenAndDie(t *testing.T, path string) os.FileInfo {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
