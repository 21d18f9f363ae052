package sdk_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startDaprd runs the daprd that KEYWELL_DAPRD names, in a network of its own where there is nobody, with its API on a
// socket. It finds plugins in folder and its components in the file components. It ends with the test.
func startDaprd(t *testing.T, folder, components string) *http.Client {
	t.Helper()
	binary := os.Getenv("KEYWELL_DAPRD")
	if binary == "" {
		t.Skip("KEYWELL_DAPRD names no daprd; make daprd-test builds one and sets it")
	}
	dir := t.TempDir()
	for _, name := range []string{"components", "s"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "components/all.yaml"), []byte(components), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--app-id", "web", "--resources-path", filepath.Join(dir, "components"),
		"--unix-domain-socket", filepath.Join(dir, "s"), "--enable-metrics=false", "--dapr-graceful-shutdown-seconds", "1")
	cmd.Env = append(os.Environ(), "DAPR_HOST_IP=127.0.0.1", "DAPR_COMPONENTS_SOCKETS_FOLDER="+folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // it would tell its neighbours by multicast
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
		if t.Failed() {
			t.Logf("daprd:\n%s", log.String())
		}
	})
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "s/dapr-web-http.socket"))
		},
	}}
	eventually(t, func() error {
		_, err := ask(client, http.MethodGet, "/v1.0/healthz", "")
		return err
	})
	return client
}

// ask returns the body of an answer. A status that is no success is an error.
func ask(client *http.Client, method, path, body string) (string, error) {
	req, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, answer)
	}
	return strings.TrimSpace(string(answer)), err
}

// eventually fails the test unless f succeeds within 30 s.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for err := f(); err != nil; err = f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// mountForDaprd starts the agent with a volume that has a socket for a daprd, and returns the volume's path and the flags
// to start it with again.
func mountForDaprd(t *testing.T, a *agent) (target string, flags []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	flags, target = []string{"--csi-socket", a.dir + "/csi.sock", "--target-root", a.dir + "/v"}, a.dir+"/v/pod"
	a.run(t, flags...)
	if out, err := exec.Command(a.binary, "mount", "--csi-socket", a.dir+"/csi.sock", "--attribute", "api=dapr-plugin", target).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
	return target, flags
}

// TestStockDaprd has the real daprd use the socket in a volume: it reads secrets for its app, another of its components
// takes a setting from one, it is refused what the agent's scopes deny, and it goes on when the agent was killed.
func TestStockDaprd(t *testing.T) {
	a := prepare(t)
	database := filepath.Join(a.dir, "cart.db")
	a.write(t, "multi.json", fmt.Sprintf(`{"db": {"user": "u", "password": "p"}, "cart": {"path": %q}}`, database))
	target, flags := mountForDaprd(t, a)
	client := startDaprd(t, target+"/dapr-components", `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: multi}
spec: {type: secretstores.keywell, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: single}
spec: {type: secretstores.keywell, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: cart}
spec:
  type: state.sqlite
  version: v1
  metadata: [{name: connectionString, secretKeyRef: {name: cart, key: path}}]
auth: {secretStore: multi}
`)
	wants := func(path, want string) error {
		got, err := ask(client, http.MethodGet, path, "")
		if err == nil && got != want {
			err = fmt.Errorf("%s: %s", path, got)
		}
		return err
	}
	if err := wants("/v1.0/secrets/multi/db", `{"password":"p","user":"u"}`); err != nil {
		t.Error(err)
	}
	if got, err := ask(client, http.MethodGet, "/v1.0/secrets/single/forbidden", ""); err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
		t.Errorf("a secret that the scopes deny: %s, %v", got, err)
	}
	if _, err := ask(client, http.MethodPost, "/v1.0/state/cart", `[{"key": "k", "value": "v"}]`); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(database); err != nil {
		t.Errorf("the other component does not have the secret: %v", err)
	}
	a.kill(t)
	if err := wants("/v1.0/secrets/multi/db", ""); err == nil {
		t.Error("there is no agent, and daprd has an answer")
	}
	a.run(t, flags...)
	eventually(t, func() error { return wants("/v1.0/secrets/multi/db", `{"password":"p","user":"u"}`) })
}
