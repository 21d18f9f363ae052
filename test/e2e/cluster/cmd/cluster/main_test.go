package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommand goes through a session of a person with a cluster.
func TestCommand(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a cluster needs root")
	}
	program := filepath.Join(t.TempDir(), "cluster")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	run := func(args ...string) (out string, status int) {
		data, err := exec.CommandContext(t.Context(), program, append([]string{"-name", "by-hand"}, args...)...).Output()
		var exited *exec.ExitError
		if err != nil && !errors.As(err, &exited) {
			t.Fatal(err)
		}
		if exited != nil {
			t.Logf("cluster %s: status %d, %s", strings.Join(args, " "), exited.ExitCode(), exited.Stderr)
			return string(data), exited.ExitCode()
		}
		return string(data), 0
	}
	t.Cleanup(func() { _ = exec.Command(program, "-name", "by-hand", "down").Run() })

	for _, step := range []struct {
		name   string
		args   []string
		status int
		out    string // what the output has in it
	}{
		{"no verb", nil, 2, ""},
		{"run without a command", []string{"run", "--"}, 2, ""},
		{"down before up", []string{"down"}, 1, ""},
		{"run in a cluster of its own", []string{"run", "--", "kubectl", "get", "nodes", "-o", "name"}, 0, "node/node"},
		{"up", []string{"up"}, 0, "admin.kubeconfig"},
		{"up again", []string{"up"}, 1, ""},
		{"keep something in it", []string{"run", "--", "kubectl", "create", "namespace", "kept"}, 0, ""},
		{"and find it again", []string{"run", "--", "kubectl", "get", "namespaces", "-o", "name"}, 0, "namespace/kept"},
		{"the command's own status", []string{"run", "--", "sh", "-c", "exit 7"}, 7, ""},
		{"down", []string{"down"}, 0, ""},
		{"down again", []string{"down"}, 1, ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			out, status := run(step.args...)
			if status != step.status || !strings.Contains(out, step.out) {
				t.Errorf("status %d, want %d; output %q", status, step.status, out)
			}
		})
	}
}
