package volume_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

// greeter serves sockets: it tells every caller whose volume it has called through, and which of the sockets it was.
type greeter struct {
	mu   sync.Mutex
	open int
}

func (g *greeter) serve(id scope.Identity, s volume.Sockets) (stop func()) {
	g.count(1)
	for name, l := range map[string]net.Listener{"http": s.HTTP, "grpc": s.GRPC, "plugin": s.Plugin} {
		if l == nil {
			continue
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprint(c, name, " of ", id.Pod)
				_ = c.Close()
			}
		}()
	}
	return func() {
		closeAll(s)
		g.count(-1)
	}
}

func closeAll(s volume.Sockets) {
	for _, l := range []net.Listener{s.HTTP, s.GRPC, s.Plugin} {
		if l != nil {
			_ = l.Close()
		}
	}
}

func (g *greeter) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open += n
}

func (g *greeter) opened() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// withSockets serves the sockets of a node's volumes.
func withSockets(g *greeter) func(*volume.Options) {
	return func(o *volume.Options) { o.Serve = g.serve }
}

// call connects to a socket and returns what it says. A directory's path may be longer than a socket's address.
func call(dir, name string) (string, error) {
	handle, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer handle.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", handle.Fd(), name))
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// socketPaths are the sockets of a volume with all of them: kind → path.
var socketPaths = map[string]string{"http": "http.sock", "grpc": "grpc.sock", "plugin": "dapr-components/keywell.sock"}

func (n *node) wantSockets(t *testing.T, id string) {
	t.Helper()
	for kind, path := range socketPaths {
		if got, err := call(n.target(id), path); err != nil || got != kind+" of p" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(n.target(id), "dapr-components"))
	if err != nil || len(entries) != 1 {
		t.Errorf("a daprd finds %v, %v", entries, err)
	}
}

// apiRequest asks for a volume with sockets and no secrets, at a path that is longer than a socket's address may be.
func (n *node) apiRequest(id string, attributes ...string) volume.Request {
	req := n.request(id, "")
	req.Attributes["api"] = "socket,dapr-plugin"
	for _, a := range attributes {
		name, value, _ := strings.Cut(a, "=")
		req.Attributes[name] = value
	}
	return req
}

var longID = strings.Repeat("v", 120)

// TestSockets follows the sockets of a volume through its life.
func TestSockets(t *testing.T) {
	for _, id := range []string{"v", longID} {
		g := &greeter{}
		n := newTmpfsNode(t, withSockets(g))
		n.store.set("a", fields{"a": "1"})
		n.mustPublish(t, n.apiRequest(id, "secrets=a"))
		n.wantSockets(t, id)
		if diff := cmp.Diff(map[string]string{"a": "1"}, files(t, n, id)); diff != "" {
			t.Error(diff)
		}

		n.store.set("a", fields{"a": "2"})
		if out, err := n.Rotate(t.Context(), id); err != nil || !out.Changed {
			t.Errorf("rotate: %+v, %v", out, err)
		}
		n.mustPublish(t, n.apiRequest(id, "secrets=a"))
		n.wantSockets(t, id)
		if g.opened() != 1 {
			t.Errorf("%d volumes are served", g.opened())
		}

		if err := n.Unpublish(t.Context(), id, n.target(id)); err != nil {
			t.Fatal(err)
		}
		n.absent(t, id)
		if g.opened() != 0 {
			t.Error("the sockets outlive their volume")
		}
	}
}

// files is what a volume holds beside sockets.
func files(t *testing.T, n *node, id string) map[string]string {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(n.target(id))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type() == fs.ModeSocket || e.Name() == "dapr-components" || strings.HasPrefix(e.Name(), "..") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(n.target(id), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(b)
	}
	return got
}

// TestSocketsOfAnotherProcess has an agent end and another begin: the path that pods know leads to the new one.
func TestSocketsOfAnotherProcess(t *testing.T) {
	g := &greeter{}
	n := newTmpfsNode(t, withSockets(g))
	dead := &greeter{}
	n.opts.Serve = func(_ scope.Identity, s volume.Sockets) func() {
		closeAll(s) // as the end of a process does
		return dead.serve(scope.Identity{}, s)
	}
	n.restart(t)
	n.mustPublish(t, n.apiRequest("v"))
	if _, err := call(n.target("v"), "http.sock"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("while there is no agent: %v", err)
	}
	if err := os.WriteFile(filepath.Join(n.target("v"), "..socket_tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.opts.Serve = g.serve
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantSockets(t, "v")
	if c := n.condition(t, "v"); c.Abnormal {
		t.Errorf("condition: %+v", c)
	}
	if left := n.leftovers(t, "v"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	n.opts.Serve = nil
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := n.condition(t, "v"); !c.Abnormal || !strings.Contains(c.Message, "does not serve the API") {
		t.Errorf("an agent without the API: %+v", c)
	}
}

// TestOneKindOfSocket has volumes with some sockets only, and one whose directory for daprd's something has spoiled.
func TestOneKindOfSocket(t *testing.T) {
	for api, want := range map[string][]string{"socket": {"grpc.sock", "http.sock"}, "dapr-plugin": {"dapr-components"}} {
		g := &greeter{}
		n := newTmpfsNode(t, withSockets(g))
		n.mustPublish(t, n.apiRequest("v", "api="+api))
		var got []string
		entries, err := os.ReadDir(n.target("v"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "..") {
				got = append(got, e.Name())
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", api, diff)
		}
	}

	g := &greeter{}
	n := newTmpfsNode(t, withSockets(g))
	n.mustPublish(t, n.apiRequest("v"))
	dir := filepath.Join(n.target("v"), "dapr-components")
	if err := errors.Join(os.RemoveAll(dir), os.Symlink("/", dir)); err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantSockets(t, "v")
}

// TestSocketsOfALostMount asserts that a volume that is mounted again has sockets that lead somewhere.
func TestSocketsOfALostMount(t *testing.T) {
	g := &greeter{}
	n := newTmpfsNode(t, withSockets(g))
	n.mustPublish(t, n.apiRequest("v"))
	if err := unix.Unmount(n.target("v"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Rotate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	n.wantSockets(t, "v")
	if g.opened() != 1 {
		t.Errorf("%d volumes are served: the sockets of the lost mount hold it", g.opened())
	}
}

// TestSocketPermissions asserts that those can connect who can read the files, also where the mount is read-only.
func TestSocketPermissions(t *testing.T) {
	tests := []struct {
		name       string
		attributes []string
		group      string
		want       string // mode, user and group
	}{
		{"by default", nil, "", "Srw-rw-rw- 0 0"},
		{"of a group", nil, "2000", "Srw-rw---- 0 2000"},
		{"of a user", []string{"mode=0400", "uid=1000"}, "", "Srw------- 1000 0"},
		{"a mode that writes", []string{"mode=0777", "gid=7"}, "", "Srw-rw-rw- 0 7"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newTmpfsNode(t, withSockets(&greeter{}))
			req := n.apiRequest("v", test.attributes...)
			req.MountGroup = test.group
			n.mustPublish(t, req)
			for _, name := range socketPaths {
				info, err := os.Lstat(filepath.Join(n.target("v"), name))
				if err != nil {
					t.Fatal(err)
				}
				st := info.Sys().(*syscall.Stat_t)
				if got := fmt.Sprint(info.Mode(), " ", st.Uid, " ", st.Gid); got != test.want {
					t.Errorf("%s: %s, want %s", name, got, test.want)
				}
			}
		})
	}
}

// TestSocketReaders connects as users with and without the right to, through a read-only mount, as pods do.
func TestSocketReaders(t *testing.T) {
	n := newTmpfsNode(t, withSockets(&greeter{}))
	n.mustPublish(t, n.apiRequest("v", "mode=0440", "uid=1000", "gid=2000"))
	// Not below t.TempDir, which belongs to root alone.
	pod, err := os.MkdirTemp("/tmp", "keywell-socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Unmount(pod, unix.MNT_DETACH), os.Remove(pod) })
	if err := errors.Join(os.Chmod(pod, 0o755), unix.Mount(n.target("v"), pod, "", unix.MS_BIND, ""),
		unix.Mount("", pod, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pod, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("the mount is not read-only: %v", err)
	}
	for _, test := range []struct {
		user, group uint32
		want        string
	}{
		{1000, 1000, "http of p"}, {1001, 2000, "http of p"}, {1001, 1001, "permission denied"},
	} {
		got, err := connectAs(t, test.user, test.group, filepath.Join(pod, "http.sock"))
		if !strings.Contains(got, test.want) {
			t.Errorf("user %d of group %d: %q, %v", test.user, test.group, got, err)
		}
	}
}

const connectEnv = "KEYWELL_TEST_CONNECT"

// TestConnect is run by connectAs, in a process of its own.
func TestConnect(t *testing.T) {
	path := os.Getenv(connectEnv)
	if path == "" {
		t.Skip("only for connectAs")
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	t.Logf("%s, %v", answer, err)
}

func connectAs(t *testing.T, user, group uint32, path string) (string, error) {
	t.Helper()
	// The program's own directory belongs to root alone; a handle on it does not ask who we are.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^TestConnect$", "-test.v")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), connectEnv+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: group, NoSetGroups: false}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAPIAttribute(t *testing.T) {
	const problem = "must be socket, localhost or dapr-plugin, or several with commas between them"
	tests := []struct {
		api, secrets              string
		socket, plugin, localhost bool
		problem                   string
	}{
		{api: "socket", socket: true},
		{api: "localhost", localhost: true},
		{api: "dapr-plugin", plugin: true},
		{api: "localhost, socket,dapr-plugin", socket: true, plugin: true, localhost: true},
		{api: "socket", secrets: "a", socket: true},
		{api: "", problem: problem},
		{api: "sidecar", problem: problem},
		{api: "socket,", problem: problem},
		{api: "socket", secrets: "http.sock", problem: `the API's socket and secret "http.sock" of store "s" both have path "http.sock"`},
		{api: "localhost", secrets: "http.sock", localhost: true},
		{api: "dapr-plugin", secrets: "http.sock", plugin: true},
		{api: "dapr-plugin", secrets: "[{name: a, path: dapr-components/a}]", problem: `needs a directory "dapr-components"`},
		{api: "socket", secrets: "[{name: a, path: dapr-components/a}]", socket: true},
	}
	for _, test := range tests {
		spec, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": test.secrets, "api": test.api})
		switch {
		case test.problem != "":
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("api %q with secrets %q: %v", test.api, test.secrets, err)
			}
		case err != nil || spec.Socket != test.socket || spec.Plugin != test.plugin || spec.Localhost != test.localhost:
			t.Errorf("api %q with secrets %q: %+v, %v", test.api, test.secrets, spec, err)
		}
	}
	spec := volume.Spec{Socket: true, UID: -1, GID: -1, Items: []volume.Item{{Ref: scope.Ref{Store: "s", Name: "a"}, Path: ".", Format: volume.FormatFiles}}}
	_, err := spec.Project([]*providers.Payload{fields{"grpc.sock": "x"}.payload()})
	if err == nil || !strings.Contains(err.Error(), "the API's socket") {
		t.Errorf("a store's field with the name of a socket: %v", err)
	}
}

func TestNoSocketsWithoutAPI(t *testing.T) {
	n := newNode(t)
	for api, text := range map[string]string{"socket": "does not serve the API", "dapr-plugin": "does not serve the API", "localhost": "--container-runtime"} {
		err := n.Publish(t.Context(), n.apiRequest("v", "api="+api))
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", api, err)
		}
		n.absent(t, "v")
	}
}

// TestSocketsOfAFailedPublish asserts that sockets end with a volume that comes to nothing.
func TestSocketsOfAFailedPublish(t *testing.T) {
	g := &greeter{}
	n := newTmpfsNode(t, withSockets(g))
	n.at = func(step string) {
		if step == "publishing recorded" { // the target is occupied by the time the tmpfs is complete
			if err := errors.Join(os.MkdirAll(n.target("v"), 0o755), unix.Mount("tmpfs", n.target("v"), "tmpfs", 0, "")); err != nil {
				t.Error(err)
			}
		}
	}
	if err := n.Publish(t.Context(), n.apiRequest("v")); err == nil {
		t.Fatal("it is published")
	}
	if g.opened() != 0 {
		t.Error("its sockets are open")
	}
}
