package cluster_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// ownerVariable makes the test binary a program that owns a cluster of that name until it is killed.
const ownerVariable = "KEYWELL_TEST_OWNER"

func own(name string) int {
	c, err := cluster.Start(context.Background(), cluster.Options{Name: name})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(c.PID())
	select {}
}

// traces are the kinds of things that a cluster can leave on a machine, and what there is of each.
type traces map[string][]string

// namespacesOf are the namespaces of the process, which must not be those of the test.
func namespacesOf(t *testing.T, pid int) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, kind := range []string{"pid", "mnt", "net", "cgroup", "ipc", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		if own == its {
			t.Errorf("the cluster shares the machine's %s", own)
		}
		all[its] = true
	}
	return all
}

// find looks for what is there of the cluster with that name and those namespaces.
func find(t *testing.T, name string, namespaces map[string]bool) traces {
	t.Helper()
	found := traces{}
	links, err := filepath.Glob("/proc/[0-9]*/ns/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && namespaces[target] {
			found["processes"] = append(found["processes"], link)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "keywell-e2e-"+name+"-") {
			found["cgroups"] = append(found["cgroups"], path)
		}
		return nil // an error is a group that went in the meantime
	})
	if err != nil {
		t.Fatal(err)
	}
	root, err := cluster.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, ".cache/e2e/run", name)
	if _, err := os.Stat(dir); err == nil {
		found["files"] = []string{dir}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			found["mounts"] = append(found["mounts"], line)
		}
	}
	return found
}

// machine is what some component would change, outside the cluster, if it could: settings and directories.
func machine(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
		"kernel/keys/root_maxbytes", "kernel/hostname", "net/ipv4/ip_forward",
	} {
		data, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(data)
	}
	for _, path := range []string{
		"/etc/cni", "/etc/containerd", "/etc/kubernetes", "/opt/cni", "/opt/containerd", "/run/containerd", "/run/kubernetes", "/usr/libexec/kubernetes",
		"/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/root/.kube", "/root/.cache/helm",
	} {
		_, err := os.Stat(path)
		found[path] = fmt.Sprintf("exists: %v", err == nil)
	}
	return found
}

// expectGone waits, for at most ten seconds, until nothing is there of the cluster.
func expectGone(t *testing.T, name string, namespaces map[string]bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		found := find(t, name, namespaces)
		if len(found) == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("left of the cluster: %v", found)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestEnd ends clusters that run a pod in every way there is, and looks for anything that is left.
func TestEnd(t *testing.T) {
	needRoot(t)
	before := machine(t)
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, c *cluster.Cluster, owner *exec.Cmd)
	}{
		{"node-killed", func(t *testing.T, c *cluster.Cluster, _ *exec.Cmd) {
			if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}},
		{"owner-killed", func(t *testing.T, _ *cluster.Cluster, owner *exec.Cmd) {
			if err := owner.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}},
		{"stopped-by-another", func(t *testing.T, c *cluster.Cluster, _ *exec.Cmd) {
			if err := c.Stop(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			owner := startOwner(t, tt.name)
			c, err := cluster.Open(cluster.Options{Name: tt.name})
			if err != nil {
				t.Fatal(err)
			}
			apply(t, c, webPod)
			waitReady(t, c, "web")
			namespaces := namespacesOf(t, c.PID())

			found := find(t, tt.name, namespaces)
			if len(found["processes"]) == 0 || len(found["cgroups"]) == 0 || len(found["files"]) == 0 {
				t.Fatalf("found too little of a running cluster: %v", found)
			}
			if mounts := found["mounts"]; mounts != nil {
				t.Errorf("the machine sees the cluster's mounts: %v", mounts)
			}
			if diff := cmp.Diff(before, machine(t)); diff != "" {
				t.Errorf("the running cluster changed the machine (-before +now):\n%s", diff)
			}

			tt.end(t, c, owner)
			expectGone(t, tt.name, namespaces)
			if diff := cmp.Diff(before, machine(t)); diff != "" {
				t.Errorf("the cluster changed the machine (-before +after):\n%s", diff)
			}
			if err := c.Stop(); err != nil {
				t.Errorf("stop a cluster that is gone: %v", err)
			}
		})
	}
}

// startOwner starts a program that owns a cluster, and returns when the cluster is up.
func startOwner(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerVariable+"="+name)
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = owner.Process.Kill()
		_ = owner.Wait()
	})
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("the owner's cluster did not start")
	}
	return owner
}

// TestStartClearsLeftovers kills the janitor, too, and expects the next cluster of that name to do its work.
func TestStartClearsLeftovers(t *testing.T) {
	const name = "abandoned"
	needRoot(t)
	startOwner(t, name)
	c, err := cluster.Open(cluster.Options{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	namespaces := namespacesOf(t, c.PID())
	for _, pid := range []int{janitorOf(t, name), c.PID()} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	abandoned := find(t, name, namespaces)["cgroups"]
	if len(abandoned) == 0 {
		t.Fatal("nothing was left to clear")
	}

	start(t, name)
	for _, dir := range abandoned {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
}

// janitorOf is the process whose arguments say that it is that cluster's janitor.
func janitorOf(t *testing.T, name string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		line, err := os.ReadFile(file)
		var pid int
		if err == nil && strings.HasPrefix(string(line), "keywell-cluster-janitor\x00") && strings.Contains(string(line), "/"+name+"/") {
			if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("there is no janitor")
	return 0
}
