package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a command that will run in the cluster's network, with kubectl, helm and ctr in its PATH and KUBECONFIG set.
// Everything else, files included, it shares with the caller. Its end is the caller's business, not the cluster's.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netns(c.pid), "--", name}, args...)...)
	cmd.Env = append(os.Environ(),
		"PATH="+c.kube+":"+c.tools+":"+os.Getenv("PATH"),
		"KUBECONFIG="+c.Kubeconfig(),
		"CONTAINERD_ADDRESS="+c.containerdSocket(), // ctr's
		// Clusters share an address, under which both programs would keep what they know of an API server.
		"KUBECACHEDIR="+c.path("kubectl-cache"),
		"HELM_CACHE_HOME="+c.path("helm-cache"),
		"HELM_CONFIG_HOME="+c.path("helm-config"),
		"HELM_DATA_HOME="+c.path("helm-data"),
	)
	return cmd
}

// NodeCommand is a command that will run on the cluster's node: in all its namespaces, as if logged in there. It ends with
// the cluster.
func (c *Cluster) NodeCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", fmt.Sprint(c.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = c.environment()
	return cmd
}

// Kubectl runs kubectl and returns what it printed. Its error has what kubectl said.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return run(c.Command(ctx, "kubectl", args...))
}

// Apply creates or changes the objects of a manifest, which is YAML.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	cmd := c.Command(ctx, "kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := run(cmd)
	return err
}

// ImportImage gives the node the image in an OCI archive (see WriteImage).
func (c *Cluster) ImportImage(ctx context.Context, archive string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.tools, "ctr"),
		"--address", c.containerdSocket(), "--namespace", "k8s.io", "images", "import", archive)
	_, err := run(cmd)
	return err
}

// WaitPodReady waits until the pod exists and is ready. When it gives up, its error describes the pod.
func (c *Cluster) WaitPodReady(ctx context.Context, namespace, pod string, timeout time.Duration) error {
	for _, condition := range []string{"create", "condition=Ready"} {
		_, err := c.Kubectl(ctx, "wait", "--namespace", namespace, "--for", condition, "--timeout", timeout.String(), "pod/"+pod)
		if err != nil {
			description, _ := c.Kubectl(context.WithoutCancel(ctx), "describe", "--namespace", namespace, "pod/"+pod, "--request-timeout", "5s")
			return fmt.Errorf("%w\n%s", err, description)
		}
	}
	return nil
}

// InNetwork runs f on a thread that is in the cluster's network. Sockets that f opens itself, not in other goroutines,
// belong there and may be used anywhere afterwards: to listen on NodeIP for the pods, or to reach one of them.
func (c *Cluster) InNetwork(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- c.enterNetwork(f) }()
	return <-done
}

// enterNetwork changes its thread's network namespace, and back. Where it cannot go back it leaves the thread locked, and
// the runtime ends it with the goroutine.
func (c *Cluster) enterNetwork(f func() error) (err error) {
	there, err := os.Open(netns(c.pid))
	if err != nil {
		return err
	}
	defer there.Close()
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer here.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the cluster's network: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave the cluster's network: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// DialContext connects to an IP address and port in the cluster's network. It fits http.Transport and rest.Config.
func (c *Cluster) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = c.InNetwork(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func netns(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// run returns the command's standard output; its error has the end of standard error.
func run(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		said := stderr.Bytes()
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(said[max(0, len(said)-2000):]))
	}
	return stdout.String(), nil
}
