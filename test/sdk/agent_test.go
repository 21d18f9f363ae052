// Package sdk_test runs the agent as a process of its own and calls it with the unmodified Dapr SDKs. It uses nothing of the
// product's module, internal/agenttest neither, so that the SDKs run with the dependencies that they ask for and not with
// the product's.
package sdk_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	store = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: %s}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
  - {name: secretsFile, value: %s}
  - {name: multiValued, value: "%t"}
`
	environment = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: environment}
spec:
  type: secretstores.local.env
  version: v1
  metadata:
  - {name: prefix, value: SDKTEST_}
`
	scopes = `apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: config}
spec:
  secrets:
    scopes:
    - {storeName: single, deniedSecrets: [forbidden]}
`
	secrets = `{"plain": "s3cret", "with/slash": "slashed", "nested": {"a": {"b": "deep"}}, "forbidden": "no", "unicode": "gr\u00fc\u00df <&>"}`
	rotates = `{"password": %q, "db": {"user": "u", "password": %[1]q}}`
	multi   = `{"db": {"user": "u", "password": "p"}, "one": "1"}`
	token   = "api-token"
)

// agent is a running agent.
type agent struct {
	binary     string
	http, grpc string // host:port
	dir        string
	process    *exec.Cmd
}

// start runs the agent that KEYWELL_AGENT names, with its API on loopback ports. Flags come after the usual ones, which
// serve no volumes.
func start(t *testing.T, flags ...string) *agent {
	t.Helper()
	a := prepare(t)
	a.run(t, flags...)
	return a
}

// prepare makes the agent's files.
func prepare(t *testing.T) *agent {
	t.Helper()
	binary := os.Getenv("KEYWELL_AGENT")
	if binary == "" {
		t.Skip("KEYWELL_AGENT does not name the agent's binary; make sdk sets it")
	}
	a := &agent{binary: binary, http: freeAddress(t), grpc: freeAddress(t), dir: t.TempDir()}
	resources := filepath.Join(a.dir, "resources")
	if err := os.Mkdir(resources, 0o755); err != nil {
		t.Fatal(err)
	}
	a.write(t, "single.json", secrets)
	a.write(t, "multi.json", multi)
	a.rotate(t, "1")
	a.write(t, "resources/single.yaml", fmt.Sprintf(store, "single", filepath.Join(a.dir, "single.json"), false))
	a.write(t, "resources/multi.yaml", fmt.Sprintf(store, "multi", filepath.Join(a.dir, "multi.json"), true))
	a.write(t, "resources/rotating.yaml", fmt.Sprintf(store, "rotating", filepath.Join(a.dir, "rotating.json"), true))
	a.write(t, "resources/environment.yaml", environment)
	a.write(t, "config.yaml", scopes)

	return a
}

// run starts the agent and waits until it is ready. It ends with the test.
func (a *agent) run(t *testing.T, flags ...string) {
	t.Helper()
	a.process = exec.Command(a.binary, append([]string{
		"run", "--app-id", "sdk-test", "--resources-path", filepath.Join(a.dir, "resources"), "--config", filepath.Join(a.dir, "config.yaml"),
		"--http-address", a.http, "--grpc-address", a.grpc, "--metrics-address", "", "--dapr-plugin-socket", filepath.Join(a.dir, "keywell.sock"),
		"--csi-socket", "", "--state-dir", a.dir,
	}, flags...)...)
	a.process.Env = append(os.Environ(), "DAPR_API_TOKEN="+token, "SDKTEST_GREETING=hello")
	log, err := os.Create(filepath.Join(a.dir, "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	a.process.Stdout, a.process.Stderr = log, log
	if err := a.process.Start(); err != nil {
		t.Fatal(err)
	}
	process := a.process
	t.Cleanup(func() {
		if process != a.process {
			return // it was killed
		}
		_ = process.Process.Signal(os.Interrupt)
		if err := process.Wait(); err != nil {
			t.Errorf("the agent did not stop cleanly: %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("agent log:\n%s", b)
		}
	})
	a.wait(t)
}

// kill ends the agent as a crash would.
func (a *agent) kill(t *testing.T) {
	t.Helper()
	if err := a.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = a.process.Wait() // it says that it was killed
	a.process = nil
}

func (a *agent) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rotate gives all secrets of the store rotating another password.
func (a *agent) rotate(t *testing.T, password string) {
	t.Helper()
	a.write(t, "rotating.json", fmt.Sprintf(rotates, password))
}

// wait polls the health route, as the SDKs do.
func (a *agent) wait(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := http.Get("http://" + a.http + "/v1.0/healthz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusNoContent {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the agent did not become ready in 30 s")
		}
	}
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
