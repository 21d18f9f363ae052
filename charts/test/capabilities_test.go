package chart_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capabilityNumbers are those of linux/capability.h that the DaemonSet names.
var capabilityNumbers = map[string]int{
	"CHOWN": unix.CAP_CHOWN, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "FOWNER": unix.CAP_FOWNER, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
}

// TestConfined runs the agent as the DaemonSet does, with every capability that root has, and looks at what its threads
// have left, to use and to hand on: those that the DaemonSet names, because the container runtime takes none away.
func TestConfined(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has capabilities to give up")
	}
	agent, dir := buildAgent(t), t.TempDir()
	write(t, filepath.Join(dir, "resources/none.yaml"), "")
	write(t, filepath.Join(dir, "kubeconfig"), "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n"+
		"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	var want uint64
	for _, name := range decode(t, mustRender(t, "", newest)).agent().SecurityContext.Capabilities.Add {
		want |= 1 << capabilityNumbers[string(name)]
	}
	cmd := startWith(t, agent, dir, nil, new(bytes.Buffer), "--kubernetes", "--kubeconfig", dir+"/kubeconfig", "--node-name", "test", "--plugin-registry", dir)
	defer stop(t, cmd, syscall.SIGKILL)
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(paths) < 3 {
		t.Fatalf("the agent has %d threads, %v", len(paths), err)
	}
	wantLines := fmt.Sprintf("CapInh:\t%016x\nCapPrm:\t%016[2]x\nCapEff:\t%016[2]x\nCapBnd:\t%016[2]x\nCapAmb:\t%016[1]x\nNoNewPrivs:\t1\n", 0, want)
	for _, p := range paths {
		status, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(status), wantLines) {
			t.Errorf("%s: want\n%sgot\n%s", p, wantLines, status)
		}
	}
}

// TestCapabilities runs the agent with the capabilities that the DaemonSet asks for and no others: it publishes files
// that belong to somebody else, is killed, finds the volume again and removes it. Then it runs without each in turn,
// which has to show.
func TestCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	agent := buildAgent(t)
	var listed []string
	for _, c := range decode(t, mustRender(t, "", newest)).agent().SecurityContext.Capabilities.Add {
		listed = append(listed, string(c))
	}
	t.Run("all", func(t *testing.T) {
		if complaints := useVolume(t, agent, listed); complaints != "" {
			t.Errorf("the agent needs more than %v:\n%s", listed, complaints)
		}
	})
	for i, without := range listed {
		t.Run("without "+without, func(t *testing.T) {
			rest := append(append([]string(nil), listed[:i]...), listed[i+1:]...)
			if complaints := useVolume(t, agent, rest); complaints == "" {
				t.Errorf("the agent does not need %s", without)
			}
		})
	}
}

// useVolume takes a volume through its life with an agent that has only these capabilities, and returns what went
// wrong: failed commands, and warnings and errors in the agent's log.
func useVolume(t *testing.T, agent string, capabilities []string) string {
	t.Helper()
	dir := t.TempDir()
	target := filepath.Join(dir, "volumes/a")
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	write(t, filepath.Join(dir, "secrets.json"), `{"db": "canary"}`)
	write(t, filepath.Join(dir, "resources/store.yaml"), `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: file}
spec:
  type: secretstores.local.file
  version: v1
  metadata: [{name: secretsFile, value: `+dir+`/secrets.json}]
`)
	if err := os.Mkdir(filepath.Join(dir, "volumes"), 0o755); err != nil {
		t.Fatal(err)
	}
	var complaints, log bytes.Buffer
	client := func(args ...string) {
		args = append([]string{args[0], "--csi-socket", dir + "/csi.sock"}, args[1:]...)
		if out, err := exec.CommandContext(t.Context(), agent, args...).CombinedOutput(); err != nil {
			fmt.Fprintf(&complaints, "%s: %v: %s\n", args[0], err, out)
		}
	}

	first := startWith(t, agent, dir, capabilities, &log)
	client("mount", "--store", "file", "--secrets", "db", "--mode", "0660", "--attribute", "uid=1000", "--attribute", "gid=2000", "--attribute", "api=socket", target)
	stop(t, first, syscall.SIGKILL)
	if complaints.Len() > 0 {
		return complaints.String() // there is nothing to find again
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(target, "db"), &st); err != nil || st.Uid != 1000 || st.Gid != 2000 || st.Mode&0o777 != 0o660 {
		fmt.Fprintf(&complaints, "the file belongs to %d:%d and has mode %o, %v\n", st.Uid, st.Gid, st.Mode&0o777, err)
	}
	if err := unix.Stat(filepath.Join(target, "http.sock"), &st); err != nil || st.Uid != 1000 || st.Gid != 2000 || st.Mode&0o777 != 0o660 {
		fmt.Fprintf(&complaints, "the socket belongs to %d:%d and has mode %o, %v\n", st.Uid, st.Gid, st.Mode&0o777, err)
	}
	second := startWith(t, agent, dir, capabilities, &log)
	client("mount", "--store", "file", "--secrets", "db", "--mode", "0660", "--attribute", "uid=1000", "--attribute", "gid=2000", "--attribute", "api=socket", target)
	client("unmount", target)
	stop(t, second, syscall.SIGTERM)
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			complaints.WriteString(line)
		}
	}
	return complaints.String()
}

// startWith starts an agent whose capabilities are bounded (nil: not at all), and waits until it serves.
func startWith(t *testing.T, agent, dir string, capabilities []string, log *bytes.Buffer, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(agent, append([]string{"run", "--csi-socket", dir + "/csi.sock", "--state-dir", dir + "/state", "--target-root", dir + "/volumes",
		"--resources-path", dir + "/resources", "--http-address=", "--grpc-address=", "--metrics-address=", "--audit-log="}, flags...)...)
	cmd.Stderr = log
	started := make(chan error)
	go func() {
		// The bounding set is the thread's, and its child's. The thread is never unlocked, so it ends with the goroutine.
		runtime.LockOSThread()
		var err error
		if capabilities != nil {
			err = bound(capabilities)
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // in vain where the test has stopped it
	deadline := time.After(10 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; {
		conn, err := net.Dial("unix", dir+"/csi.sock")
		if err == nil {
			conn.Close()
			return cmd
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("the agent does not serve: %v", err)
		}
	}
}

// bound removes every capability but the named from what programs started by this thread can have.
func bound(capabilities []string) error {
	keep := map[int]bool{}
	for _, name := range capabilities {
		n, ok := capabilityNumbers[name]
		if !ok {
			return fmt.Errorf("capability %s is not known", name)
		}
		keep[n] = true
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		return err
	}
	for c := 0; c <= n; c++ {
		if keep[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

func stop(t *testing.T, cmd *exec.Cmd, signal syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // how it ended is the signal's doing
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
