package docs_test

import (
	"bytes"
	"errors"
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
)

// namespaceKey is set, to the path of the agent, in the process that runs sessions.
const namespaceKey = "KEYWELL_DOCS_AGENT"

func inNamespace() bool { return os.Getenv(namespaceKey) != "" }

// sessionPages are the pages whose sessions run.
var sessionPages = []string{"configuration.md", "volumes.md", "api.md", "operations.md", "stores/local-file.md", "stores/local-env.md"}

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
	for _, name := range sessionPages {
		t.Run(name, func(t *testing.T) { runSessions(t, load(t, filepath.Join(root, "docs", name))) })
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

// session is the state of one page's sessions.
type session struct {
	t   *testing.T
	dir string
}

func runSessions(t *testing.T, p page) {
	for _, dir := range []string{"/run", "/etc"} { // where defaults point; as good as new for each page
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	s := session{t: t, dir: t.TempDir()}
	commands := 0
	for _, b := range p.blocks {
		if b.name != "" {
			s.write(b)
		}
		if b.language != "console" {
			continue
		}
		for step := range strings.SplitSeq(strings.TrimPrefix(b.text, "$ "), "\n$ ") {
			commands++
			s.step(b.at, step)
		}
	}
	if commands == 0 {
		t.Error("there is no session")
	}
}

// write makes the file that a block stands for.
func (s *session) write(b block) {
	path := b.name
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.dir, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(b.text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// step runs a command and compares what it prints. What changes takes its time to show, so a command is repeated for
// some seconds while it prints something else.
func (s *session) step(at, step string) {
	s.t.Helper()
	for strings.Contains(step, "\\\n") {
		step = strings.Replace(step, "\\\n", "", 1)
	}
	command, want, _ := strings.Cut(step, "\n")
	if background, ok := strings.CutSuffix(command, " &"); ok {
		s.start(at, background)
		return
	}
	pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(want, "\n")), "…", ".*") + "$")
	var got string
	prints := func() bool {
		out, _ := s.command(command).CombinedOutput() // a page may show a failure
		got = strings.TrimRight(string(out), "\n")
		return pattern.MatchString(got)
	}
	if !eventually(prints) {
		s.t.Errorf("%s: %s\nprints\n%s\nand not\n%s", at, command, got, want)
	}
}

// eventually tries cond for a quarter of a minute, for busy machines, and reports whether it became true.
func eventually(cond func() bool) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 150 {
		if cond() {
			return true
		}
		<-tick.C
	}
	return false
}

// start runs an agent until the page ends, and waits until it is ready.
func (s *session) start(at, command string) {
	s.t.Helper()
	var output bytes.Buffer
	cmd := s.command(command)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { end(cmd) })
	ready := func() bool {
		resp, err := http.Get("http://127.0.0.1:3500/v1.0/healthz")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusNoContent
	}
	if !eventually(ready) {
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
	eventually(func() bool { return errors.Is(syscall.Kill(group, 0), syscall.ESRCH) })
}

// command prepares a shell command in a process group of its own.
func (s *session) command(text string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", text)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}
