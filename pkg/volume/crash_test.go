package volume_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The volume of the crash tests, before and after its secrets change: a file disappears and another appears.
var (
	before = fields{"x": "1", "y": "1", "old/z": "1"}
	after  = fields{"x": "2", "y": "2", "new/z": "2"}
)

const crashSecrets = "[{name: a, path: .}]"

// crashes are what a process is killed in, by name. prepare leads up to it, act is killed in one step after another, and
// check looks at what Recover makes of it.
var crashes = map[string]struct {
	prepare, act func(testing.TB, *node) error
	check        func(t *testing.T, n *node, step string)
}{
	"publish": {
		prepare: func(testing.TB, *node) error { return nil },
		act:     publishBefore,
		check:   checkPublish,
	},
	"swap": {
		prepare: publishBefore,
		act: func(t testing.TB, n *node) error {
			n.store.set("a", after)
			_, err := n.Rotate(t.Context(), "v")
			return err
		},
		check: checkSwap,
	},
	"remount": {
		prepare: func(t testing.TB, n *node) error {
			if err := publishBefore(t, n); err != nil {
				return err
			}
			// As long as somebody holds the lost tmpfs, the next one gets another device number.
			lost, _, err := n.opts.Mounter.Open(n.target("v"))
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = lost.Close() })
			return n.opts.Mounter.Unmount(n.target("v"))
		},
		act: func(t testing.TB, n *node) error {
			_, err := n.Rotate(t.Context(), "v")
			return err
		},
		check: checkRemount,
	},
	"unpublish": {
		prepare: publishBefore,
		act:     func(t testing.TB, n *node) error { return n.Unpublish(t.Context(), "v", n.target("v")) },
		check:   checkUnpublish,
	},
}

func publishBefore(t testing.TB, n *node) error {
	n.store.set("a", before)
	return n.Publish(t.Context(), n.request("v", crashSecrets))
}

// The environment of the process that is killed.
const (
	crashEnv = "KEYWELL_TEST_CRASH" // name of a crash
	stepEnv  = "KEYWELL_TEST_STEP"
	dirEnv   = "KEYWELL_TEST_DIR"
	stateEnv = "KEYWELL_TEST_STATE"
)

// TestCrashProcess is that process.
func TestCrashProcess(t *testing.T) {
	crash, ok := crashes[os.Getenv(crashEnv)]
	if !ok {
		t.Skip("run by TestCrash")
	}
	n := openTmpfsNode(t, os.Getenv(dirEnv), os.Getenv(stateEnv))
	if err := crash.prepare(t, n); err != nil {
		t.Fatal(err)
	}
	n.at = func(step string) {
		if step == os.Getenv(stepEnv) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	t.Error("still alive:", crash.act(t, n))
}

// stepsOf returns the steps of a crash, in order.
func stepsOf(t *testing.T, name string) (steps []string) {
	t.Helper()
	n := newTmpfsNode(t)
	if err := crashes[name].prepare(t, n); err != nil {
		t.Fatal(err)
	}
	n.at = func(step string) { steps = append(steps, step) }
	if err := crashes[name].act(t, n); err != nil {
		t.Fatal(err)
	}
	return steps
}

// crashed returns a node on which another process was killed at a step.
func crashed(t *testing.T, name, step string) *node {
	t.Helper()
	dir, state := t.TempDir(), t.TempDir()
	unmountAtEnd(t, dir)
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashProcess$")
	cmd.Env = append(os.Environ(), crashEnv+"="+name, stepEnv+"="+step, dirEnv+"="+dir, stateEnv+"="+state)
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed: %v\n%s", err, out)
	}
	n := openTmpfsNode(t, dir, state)
	n.store.set("a", before)
	return n
}

func checkPublish(t *testing.T, n *node, step string) {
	if step != "published recorded" {
		n.absent(t, "v")
		return
	}
	if diff := cmp.Diff(map[string]string(before), n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
}

func checkSwap(t *testing.T, n *node, _ string) {
	got := n.files(t, "v")
	if !cmp.Equal(got, map[string]string(before)) && !cmp.Equal(got, map[string]string(after)) {
		t.Errorf("the volume holds %v", got)
	}
	if got := n.leftovers(t, "v"); len(got) > 0 {
		t.Errorf("the volume also holds %v", got)
	}
	if n.store.count() > 0 {
		t.Error("recovery asked the store")
	}
	n.store.set("a", after)
	if _, err := n.Rotate(t.Context(), "v"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string(after), n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	n.store.set("a", before)
}

func checkRemount(t *testing.T, n *node, step string) {
	if diff := cmp.Diff([]string{"v"}, n.IDs()); diff != "" {
		t.Error(diff)
	}
	if c := n.condition(t, "v"); c.Abnormal != (step != "mounted") {
		t.Errorf("condition is %+v", c)
	}
	out, err := n.Rotate(t.Context(), "v")
	if err != nil || out.Changed != (step != "mounted") {
		t.Errorf("rotate: %+v, %v", out, err)
	}
	// What was found is on record: the next process finds it too.
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil || n.condition(t, "v").Abnormal {
		t.Errorf("recover again: %v, condition %+v", err, n.condition(t, "v"))
	}
}

func checkUnpublish(t *testing.T, n *node, _ string) {
	n.absent(t, "v")
}

func TestCrash(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for name, crash := range crashes {
		t.Run(name, func(t *testing.T) {
			steps := stepsOf(t, name)
			if len(steps) < 3 {
				t.Fatalf("the steps are %q", steps)
			}
			for _, step := range steps {
				t.Run(step, func(t *testing.T) {
					t.Parallel()
					n := crashed(t, name, step)
					if err := n.Recover(t.Context()); err != nil {
						t.Error(err)
					}
					crash.check(t, n, step)

					// Whatever happened, the kubelet's next calls work.
					if err := publishBefore(t, n); err != nil {
						t.Error(err)
					}
					if _, err := n.Rotate(t.Context(), "v"); err != nil {
						t.Error(err)
					}
					if diff := cmp.Diff(map[string]string(before), n.files(t, "v")); diff != "" {
						t.Error(diff)
					}
					if got := n.leftovers(t, "v"); len(got) > 0 {
						t.Errorf("the volume also holds %v", got)
					}
					if err := n.Unpublish(t.Context(), "v", n.target("v")); err != nil {
						t.Error(err)
					}
					n.absent(t, "v")
				})
			}
		})
	}
}
