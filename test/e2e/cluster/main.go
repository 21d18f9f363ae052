package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// roleVariable in the environment says that the process is one of a cluster's own, and which.
const roleVariable = "KEYWELL_CLUSTER_ROLE"

const (
	roleJanitor = "janitor" // clears away what the kernel leaves of a cluster
	roleJoin    = "join"    // becomes the node once it is in the cluster's control groups
	roleNode    = "node"    // process 1 of the cluster
)

// Descriptors that Start hands to the processes it makes.
const (
	janitorWatches = 3 // reads end of file when the node is gone
	janitorLock    = 4 // is held for as long as something of the cluster is there

	nodeWatches = 3 // reads end of file when the owner is gone
	nodeAlive   = 4 // the other end of janitorWatches
)

// spec is what those processes are told, in the file that is their one argument.
type spec struct {
	Dir         string
	Logs        string
	Cgroups     []cgroup
	Detached    bool
	Environment []string
	Components  []component
}

// Main runs f, unless this process is one that Start made, by running the same program again, to be part of a cluster.
// A program that calls Start says os.Exit(cluster.Main(f)), and a test's TestMain os.Exit(cluster.Main(m.Run)).
func Main(f func() int) int {
	role := os.Getenv(roleVariable)
	if role == "" {
		return f()
	}
	if err := runRole(role, os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "cluster %s: %v\n", role, err)
		return 1
	}
	return 0
}

func runRole(role, specPath string) error {
	data, err := os.ReadFile(specPath)
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	switch role {
	case roleJanitor:
		return s.janitor()
	case roleJoin:
		return s.join(specPath)
	case roleNode:
		return s.node()
	}
	return fmt.Errorf("there is no role %q", role)
}

// roleCommand is this program again, in a role. It has its own session, so that no terminal's signals reach it.
func roleCommand(role, specPath string) *exec.Cmd {
	return &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{"keywell-cluster-" + role, specPath},
		Env:         append(os.Environ(), roleVariable+"="+role),
		Dir:         "/",
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
}

// join enters the cluster's control groups, makes them the root of a namespace, and becomes the node. The last two are
// properties of one thread, hence the new program in place of this one.
func (s *spec) join(specPath string) error {
	runtime.LockOSThread()
	for _, c := range s.Cgroups {
		if err := c.join(); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare control groups: %w", err)
	}
	cmd := roleCommand(roleNode, specPath)
	return unix.Exec(cmd.Path, cmd.Args, cmd.Environ())
}
