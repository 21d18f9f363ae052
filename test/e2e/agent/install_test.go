package agent_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const keywellNamespace = "keywell-system"

// values are Helm values, as JSON will have them.
type values map[string]any

// defaults are the chart's, with the image that was built here.
func defaults() values {
	return values{"image": values{"repository": agentRepository, "tag": agentTag, "pullPolicy": "Never"}}
}

// with returns the values with one more.
func (v values) with(name string, value any) values {
	more := maps.Clone(v)
	more[name] = value
	return more
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a cluster needs root")
	}
}

var installed string // the values that Keywell is installed with, as JSON; "" if it is not

// install makes sure that Keywell is installed with these values, and waits until every agent is ready.
func install(t *testing.T, v values) {
	t.Helper()
	needRoot(t)
	first, began := installed == "", time.Now()
	if !helmUpgrade(t, v) {
		return
	}
	waitInstalled(t)
	if first {
		measured(t, "helm install to agent ready and driver registered", "%s", seconds(time.Since(began)))
	}
}

// helmUpgrade installs Keywell with these values, or changes to them, and does not wait. It returns false if there is
// nothing to change.
func helmUpgrade(t *testing.T, v values) bool {
	t.Helper()
	want, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if installed == string(want) {
		return false
	}
	file := filepath.Join(t.TempDir(), "values.json")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	helm(t, "upgrade", "--install", "keywell", "../../../charts/keywell", "--namespace", keywellNamespace, "--create-namespace", "-f", file)
	installed = string(want)
	return true
}

func waitInstalled(t *testing.T) {
	t.Helper()
	waitRollout(t)
	eventually(t, 10*time.Second, registered(t))
}

func uninstall(t *testing.T) {
	t.Helper()
	helm(t, "uninstall", "keywell", "--namespace", keywellNamespace, "--wait", "--timeout", "90s")
	installed = ""
}

func helm(t *testing.T, args ...string) {
	t.Helper()
	if err := output(node.Command(t.Context(), "helm", args...)); err != nil {
		t.Fatal(err)
	}
}

func waitRollout(t *testing.T) {
	t.Helper()
	if _, err := node.Kubectl(t.Context(), "rollout", "status", "daemonset/keywell", "--namespace", keywellNamespace, "--timeout", "90s"); err != nil {
		t.Fatalf("%v\n%s", err, agentState(t))
	}
}

// agentState is what one wants to know of an agent that does not start.
func agentState(t *testing.T) string {
	pods, _ := node.Kubectl(t.Context(), "describe", "pods", "--namespace", keywellNamespace)
	logs, _ := node.Kubectl(t.Context(), "logs", "daemonset/keywell", "--namespace", keywellNamespace, "--tail", "30")
	return pods + "\n" + logs
}

type csiNode struct {
	Spec struct{ Drivers []struct{ Name string } }
}

// registered is nil once the kubelet has published that the node has the driver.
func registered(t *testing.T) func() error {
	return func() error {
		var names []string
		for _, d := range get[csiNode](t, "/apis/storage.k8s.io/v1/csinodes/node").Spec.Drivers {
			names = append(names, d.Name)
		}
		if !slices.Contains(names, "csi.keywell.dev") {
			return fmt.Errorf("the CSINode lists %q", names)
		}
		return nil
	}
}

// TestInstall installs the chart with its defaults and runs its own test.
func TestInstall(t *testing.T) {
	install(t, defaults())
	t.Run("helm test", func(t *testing.T) { helm(t, "test", "keywell", "--namespace", keywellNamespace, "--timeout", "60s") })
	t.Run("no more capabilities than docs/install.md says", func(t *testing.T) {
		const want = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_SYS_ADMIN
		out := onNode(t, "cat /proc/$(pidof agent)/task/*/status | grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs)' | sort -u")
		if diff := cmp.Diff(fmt.Sprintf("CapBnd:\t%016[1]x\nCapEff:\t%016[1]x\nCapPrm:\t%016[1]x\nNoNewPrivs:\t1\n", want), out); diff != "" {
			t.Errorf("capabilities of the agent's threads (-want +got):\n%s", diff)
		}
	})
	t.Run("no right to read Secrets", func(t *testing.T) {
		out, err := node.Kubectl(t.Context(), "auth", "can-i", "get", "secrets", "--all-namespaces",
			"--as", "system:serviceaccount:"+keywellNamespace+":keywell")
		if err == nil || strings.TrimSpace(out) != "no" {
			t.Errorf("may the agent read Secrets? %q, %v", out, err)
		}
	})
}
