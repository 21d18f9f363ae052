package leak_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/internal/agenttest"
)

// binary is the agent, built from this source.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "leak")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // another user runs it too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if binary, err = agenttest.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// agent is a running agent and its directory.
type agent struct {
	*agenttest.Process
	t    *testing.T
	dir  string
	http *http.Client
}

// launch is how an agent is started.
type launch struct {
	args, env []string
	user      *syscall.Credential // nil: the test's own
}

// start runs an agent whose working directory is dir and waits until it is ready. Its standard output and error go to
// the file log.
func start(t *testing.T, dir string, l launch) *agent {
	t.Helper()
	a := &agent{t: t, dir: dir, http: overSocket(filepath.Join(dir, "dapr-leak-http.socket"))}
	cmd := exec.Command(binary, append([]string{
		"run", "--app-id", "leak", "--resources-path", "resources", "--state-dir", "state", "--unix-domain-socket", dir,
		"--metrics-address", "127.0.0.1:0", "--log-level", "debug",
	}, l.args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), l.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: l.user}
	a.Process = agenttest.Start(t, cmd, a.path("log"))
	a.Until("the agent is ready", func() bool { return agenttest.Healthy(a.http, "http://localhost") })
	return a
}

func overSocket(path string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

func (a *agent) path(name string) string { return filepath.Join(a.dir, name) }

// write replaces a file below the agent's directory in one step.
func (a *agent) write(name, content string) { write(a.t, a.dir, name, content) }

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(path), 0o755),
		os.WriteFile(path+".new", []byte(content), 0o644),
		os.Rename(path+".new", path))
	if err != nil {
		t.Fatal(err)
	}
}

func (a *agent) read(name string) []byte {
	a.t.Helper()
	data, err := os.ReadFile(a.path(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return data
}

// untilLogged waits until the log holds text count times.
func (a *agent) untilLogged(text string, count int) {
	a.t.Helper()
	a.Until(fmt.Sprintf("the log says %q %d times", text, count), func() bool {
		return bytes.Count(a.Log(), []byte(text)) >= count
	})
}

// get returns status, headers and body of an answer of the API.
func (a *agent) get(path, token string) string {
	a.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("dapr-api-token", token)
	resp, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return fmt.Sprintln(resp.Status, resp.Header, string(body))
}

var metricsAddress = regexp.MustCompile(`serving metrics.*address=(\S+)`)

// metrics returns what a scrape sees.
func (a *agent) metrics() []byte {
	a.t.Helper()
	found := metricsAddress.FindSubmatch(a.Log())
	if found == nil {
		a.t.Fatal("the log does not say where metrics are served")
	}
	resp, err := http.Get("http://" + string(found[1]) + "/metrics")
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return body
}

// home returns a directory whose path is short enough for a Unix socket, and which is emptied of mounts at the end.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		targets, _ := filepath.Glob(filepath.Join(dir, "v", "*"))
		for _, target := range targets {
			_ = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(dir, "resources"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// component returns the manifest of a store; metadata are lines of its spec.metadata.
func component(name, typ, auth string, metadata ...string) string {
	return "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: " + name + "}\nauth: {secretStore: " + auth + "}\n" +
		"spec:\n  type: secretstores." + typ + "\n  version: v1\n  metadata:\n  - " + strings.Join(metadata, "\n  - ") + "\n"
}
