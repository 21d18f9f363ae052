package confine_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/confine"
)

// keepVariable is set, to numbers of capabilities, in a process that confines itself.
const keepVariable = "CONFINE_TEST_KEEP"

func TestMain(m *testing.M) {
	keep, ok := os.LookupEnv(keepVariable)
	if !ok {
		os.Exit(m.Run())
	}
	if err := confined(strings.Fields(keep)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// confined confines this process, in which other threads run already, and prints what each thread has then.
func confined(keep []string) error {
	var numbers []int
	for _, s := range keep {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	before := startThreads()
	if err := confine.Process(numbers...); err != nil {
		return err
	}
	before()
	startThreads()()
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(paths) < 4 {
		return fmt.Errorf("%d threads: %w", len(paths), err)
	}
	for _, p := range paths {
		status, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fmt.Println(strings.Join(statusLine.FindAllString(string(status), -1), " "))
	}
	return nil
}

var statusLine = regexp.MustCompile(`(?m)^(?:Cap\w+|NoNewPrivs):.*$`)

// startThreads has some threads wait in system calls; what it returns lets them go.
func startThreads() (end func()) {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	var started sync.WaitGroup
	for range 8 {
		started.Add(1)
		go func() {
			started.Done()
			_, _ = syscall.Read(int(r.Fd()), make([]byte, 1))
		}()
	}
	started.Wait()
	return func() { w.Close() }
}

// threads runs this program, as caller, and returns what its threads have, which has to be the same.
func threads(t *testing.T, keep string, caller *syscall.SysProcAttr) (string, error) {
	t.Helper()
	dir := t.TempDir() // where anybody may execute it
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "confine.test")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), keepVariable+"="+keep)
	cmd.SysProcAttr = caller
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, line := range lines {
		if line != lines[0] {
			t.Errorf("threads differ:\n%s", out)
			break
		}
	}
	return lines[0], err
}

// line is what a thread's status says.
func line(inheritable, permitted, bounding, ambient uint64) string {
	return fmt.Sprintf("CapInh:\t%016x CapPrm:\t%016x CapEff:\t%016x CapBnd:\t%016x CapAmb:\t%016x NoNewPrivs:\t1",
		inheritable, permitted, permitted, bounding, ambient)
}

func TestProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has capabilities to give up")
	}
	everything, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	bounding, err := strconv.ParseUint(regexp.MustCompile(`CapBnd:\t(\w+)`).FindStringSubmatch(string(everything))[1], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const bind = 1 << unix.CAP_NET_BIND_SERVICE
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	for _, test := range []struct {
		name, keep string
		caller     *syscall.SysProcAttr
		want       string
	}{
		{"root", "0 21", nil, line(0, 1<<unix.CAP_CHOWN|1<<unix.CAP_SYS_ADMIN, 1<<unix.CAP_CHOWN|1<<unix.CAP_SYS_ADMIN, 0)},
		{"root that keeps nothing", "", nil, line(0, 0, 0, 0)},
		{"root that is given capabilities to pass on", "10", &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW}},
			line(bind, bind, bind, bind)},
		{"another user", "0 21", &syscall.SysProcAttr{Credential: nobody}, line(0, 0, bounding, 0)},
		{"another user with some, of which it needs one", "10",
			&syscall.SysProcAttr{Credential: nobody, AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW}},
			line(bind, bind, bounding, bind)},
		{"another user that may bound", "10",
			&syscall.SysProcAttr{Credential: nobody, AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP}},
			line(bind, bind, bind, bind)},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := threads(t, test.keep, test.caller)
			if err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("capabilities of every thread (-want +got):\n%s", diff)
			}
		})
	}
}
