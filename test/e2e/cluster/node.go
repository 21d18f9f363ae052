package cluster

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay is how long a component that ended stays away.
const restartDelay = 500 * time.Millisecond

// node is process 1 of the cluster. It prepares its namespaces, keeps the components running and ends when its owner
// does; everything else in the cluster then ends with it.
func (s *spec) node() error {
	unix.CloseOnExec(nodeWatches)
	unix.CloseOnExec(nodeAlive)
	ended := make(chan struct{})
	if !s.Detached {
		go func() {
			_, _ = io.Copy(io.Discard, os.NewFile(nodeWatches, "owner"))
			close(ended)
		}()
	}
	if err := s.prepareMounts(); err != nil {
		return fmt.Errorf("prepare mounts: %w", err)
	}
	if err := s.prepareNetwork(); err != nil {
		return fmt.Errorf("prepare network: %w", err)
	}
	return s.supervise(ended)
}

// prepareMounts gives the node file systems of its own wherever a component writes to a fixed place.
func (s *spec) prepareMounts() error {
	in := func(name string) string { return filepath.Join(s.Dir, name) }
	mounts := []mount{
		{target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		// Shared again, within these namespaces only: containers with bidirectional propagation need it.
		{target: "/", flags: unix.MS_REC | unix.MS_SHARED},
		{source: "proc", target: "/proc", kind: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "sysfs", target: "/sys", kind: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "tmpfs", target: cgroupRoot, kind: "tmpfs", data: "mode=755"},
		{source: "tmpfs", target: "/run", kind: "tmpfs", data: "mode=755"},
		{source: "overlay", target: "/var", kind: "overlay", data: fmt.Sprintf("lowerdir=/var,upperdir=%s,workdir=%s", in("var"), in("var.work"))},
		// Its own peer group, or every volume mounted below it shows twice.
		{source: in("kubelet"), target: "/var/lib/kubelet", flags: unix.MS_BIND},
		{target: "/var/lib/kubelet", flags: unix.MS_PRIVATE},
		{target: "/var/lib/kubelet", flags: unix.MS_SHARED},
	}
	// The unified hierarchy is left out: runc would make its groups in the machine's root.
	for _, c := range s.Cgroups {
		mounts = append(mounts, mount{source: "cgroup", target: c.Mount, kind: "cgroup", data: c.Options})
	}
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	return s.fakeSysctls()
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// do mounts, after making the mount point where it is missing, which is below /var and /sys/fs/cgroup only.
func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// fakeSysctls covers the settings of the whole machine that a kubelet insists on with files that hold what it wants to read.
func (s *spec) fakeSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join(s.Dir, "sysctl", strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o444); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", name, err)
		}
	}
	return nil
}

// prepareNetwork makes an interface that leads nowhere: a kubelet refuses the loopback address for its node, and there may be no
// dummy device, so both ends of a pair stay here.
func (s *spec) prepareNetwork() error {
	if err := unix.Sethostname([]byte(NodeName)); err != nil {
		return err
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(`link set lo up
link add eth0 type veth peer name eth0p
address add ` + NodeIP + `/24 dev eth0
link set eth0 up
link set eth0p up
route add default via 10.200.0.254
`)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// supervise starts the components and starts again each that ends, until it is told to stop or the owner is gone. Being
// process 1, it also buries the orphans of the containers.
func (s *spec) supervise(ended <-chan struct{}) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)

	due := make(chan component, len(s.Components)) // one slot for each: sending never blocks
	for _, c := range s.Components {
		due <- c
	}
	running := map[int]component{}
	for {
		select {
		case <-ended:
			return nil
		case <-stop:
			return nil
		case c := <-due:
			pid, err := s.start(c)
			if err != nil {
				return err
			}
			running[pid] = c
			log.Info("started", "component", c.Name, "pid", pid)
		case <-child:
			for {
				var status unix.WaitStatus
				pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
				if err == unix.EINTR {
					continue
				}
				if pid <= 0 {
					break
				}
				if c, ok := running[pid]; ok {
					delete(running, pid)
					log.Warn("ended", "component", c.Name, "exit_code", status.ExitStatus(), "signal", status.Signal())
					time.AfterFunc(restartDelay, func() { due <- c })
				}
			}
		}
	}
}

// start runs the component with its log as output. Nobody waits for it but supervise.
func (s *spec) start(c component) (pid int, err error) {
	log, err := os.OpenFile(filepath.Join(s.Logs, c.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: c.Args[0], Args: c.Args, Env: s.Environment, Dir: "/", Stdout: log, Stderr: log}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", c.Name, err)
	}
	pid = cmd.Process.Pid // Release forgets it
	return pid, cmd.Process.Release()
}
