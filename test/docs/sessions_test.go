package docs_test

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/internal/agenttest"
	"github.com/keywell/keywell/internal/docpage"
)

// namespaceKey is set, to the path of the agent, in the process that runs sessions.
const namespaceKey = "KEYWELL_DOCS_AGENT"

func inNamespace() bool { return os.Getenv(namespaceKey) != "" }

// patience is for busy machines.
const patience = 15 * time.Second

// TestSessions runs the sessions of each page against a real agent, in mount and network namespaces of their own: so
// they can use the default paths and ports that the pages show. The process in the namespaces is this test again.
func TestSessions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces of our own need root")
	}
	if !inNamespace() {
		self := exec.Command("/proc/self/exe", "-test.run=^TestSessions$", "-test.v")
		self.Env = append(os.Environ(), namespaceKey+"="+binary)
		self.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
		if out, err := self.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	raiseLoopback(t)
	for _, name := range docpage.Standalone() {
		t.Run(name, func(t *testing.T) { runSessions(t, load(t, filepath.Join(root, "docs", name))) })
	}
}

// TestEverySessionRuns: a session that no test runs is a promise that nobody keeps.
func TestEverySessionRuns(t *testing.T) {
	run := map[string]bool{}
	for _, name := range slices.Concat(docpage.Standalone(), docpage.Cluster()) {
		run["docs/"+name] = true
	}
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if b.Language == "console" && !run[p.Path] {
				t.Errorf("%s: sessions of this page are not run", b.At)
			}
			if b.Language == "sh" && run[p.Path] {
				t.Errorf("%s: make it a session (console), which is run", b.At)
			}
		}
		delete(run, p.Path)
	}
	for path := range run {
		t.Errorf("there is no page %s", path)
	}
}

// raiseLoopback brings up the one interface of a new network namespace.
func raiseLoopback(t *testing.T) {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	loopback.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, loopback); err != nil {
		t.Fatal(err)
	}
}

// sessions are the sessions of one page.
type sessions struct {
	docpage.Session
	t *testing.T
}

func runSessions(t *testing.T, p docpage.Page) {
	for _, dir := range []string{"/run", "/etc"} { // where defaults point; as good as new for each page
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	s := &sessions{t: t, Session: docpage.Session{Dir: t.TempDir(), Patience: patience}}
	s.Command = s.command
	commands := 0
	for _, b := range p.Blocks {
		if b.Name != "" {
			if err := s.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if b.Language != "console" {
			continue
		}
		for _, step := range b.Steps() {
			commands++
			if background, ok := step.Background(); ok {
				s.start(b.At, background)
			} else if err := s.Run(step); err != nil {
				t.Errorf("%s: %v", b.At, err)
			}
		}
	}
	if commands == 0 {
		t.Error("there is no session")
	}
}

// start runs an agent until the page ends, and waits until it is ready.
func (s *sessions) start(at, command string) {
	s.t.Helper()
	var output bytes.Buffer
	cmd := s.command(command)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { end(cmd) })
	ready := func() bool { return agenttest.Healthy(http.DefaultClient, "http://127.0.0.1:3500") }
	if !docpage.Eventually(patience, ready) {
		end(cmd)
		s.t.Fatalf("%s: %s\nis not ready; it prints\n%s", at, command, output.String())
	}
}

// end kills what a command has started and waits for all of it: the shell may be gone while the agent still holds its
// ports, which the next page's agent needs.
func end(cmd *exec.Cmd) {
	group := -cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGKILL)
	_ = cmd.Wait()
	docpage.Eventually(patience, func() bool { return errors.Is(syscall.Kill(group, 0), syscall.ESRCH) })
}

// command prepares a shell command in a process group of its own.
func (s *sessions) command(text string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", text)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}
