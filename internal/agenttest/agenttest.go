// Package agenttest runs the agent, and what tests compare it with, as processes of their own. It is for tests only.
package agenttest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// patience is how long Until waits, for busy machines.
const patience = 30 * time.Second

// Build builds the agent of this source, into dir, and returns its path. The working directory is somewhere in the
// product's module.
func Build(dir string) (string, error) {
	binary := filepath.Join(dir, "agent")
	out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", binary, "github.com/keywell/keywell/cmd/agent").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return binary, nil
}

// Process is a program that runs until the test ends.
type Process struct {
	t   testing.TB
	cmd *exec.Cmd
	log string
}

// Start starts cmd; all that it prints goes to the file log. At the end of the test it is asked to stop, if it still runs,
// and has to exit with 0. If the test has failed by then, the log is shown.
func Start(t testing.TB, cmd *exec.Cmd, log string) *Process {
	t.Helper()
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: cmd, log: log}
	t.Cleanup(p.stop)
	return p
}

func (p *Process) stop() {
	name := filepath.Base(p.cmd.Path)
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(os.Interrupt)
		if err := p.cmd.Wait(); err != nil {
			p.t.Errorf("%s did not end cleanly: %v", name, err)
		}
	}
	if p.t.Failed() {
		p.t.Logf("log of %s:\n%s", name, p.Log())
	}
}

// PID returns the process's ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what the process has printed so far.
func (p *Process) Log() []byte {
	p.t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	return text
}

// Die sends a signal that ends the process, and returns how it ended.
func (p *Process) Die(signal syscall.Signal) syscall.WaitStatus {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil && !isExit(err) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func isExit(err error) bool {
	_, ok := errors.AsType[*exec.ExitError](err)
	return ok
}

// Until waits until cond is true, and fails the test if that takes too long.
func (p *Process) Until(what string, cond func() bool) {
	p.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(end) {
			p.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Healthy tells whether an agent's API answers at base, such as http://127.0.0.1:3500, that it is ready.
func Healthy(client *http.Client, base string) bool {
	resp, err := client.Get(base + "/v1.0/healthz")
	return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusNoContent
}

// FreeAddress returns a loopback address that was free a moment ago.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
