package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startPatience = 90 * time.Second // a quiet machine needs 5 s
	stopPatience  = janitorPatience + 10*time.Second
)

// Options are what a cluster is started or found with.
type Options struct {
	// Name tells clusters apart that run side by side: lower-case letters, digits and dashes, at most 40.
	// "" is "default".
	Name string
	// Root is the repository's absolute path. "" looks for it upwards from the working directory.
	Root string
	// Detached lets the cluster outlive the process that starts it. Stop, of an opened Cluster too, ends it.
	Detached bool
}

// Cluster is a running cluster. It is safe for concurrent use.
type Cluster struct {
	layout
	name   string
	pid    int // of the node, in this process's namespace
	lock   string
	api    *apiClient
	exited <-chan struct{} // closed when the node has ended; nil if it is not this process's child
	owner  *os.File        // the node ends when this is closed; nil if detached or opened
}

// Start starts a cluster and returns when its node is ready, pods can be made and the images of every cluster are there.
// It takes about 5 s, and gives up when ctx ends or after 90 s. What a process that crashed has left of a cluster of that
// name is cleared away first; that such a cluster runs is an error.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	c, err := newCluster(o)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(c.lock)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.name, err)
	}
	err = c.launch(o, lock)
	lock.Close() // the janitor has it now
	if err == nil {
		err = c.waitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cluster %s: %w; logs are in %s", c.name, err, c.logs), c.Stop())
	}
	return c, nil
}

// Open finds a cluster that is running, whoever started it.
func Open(o Options) (*Cluster, error) {
	c, err := newCluster(o)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(c.lock)
	if err == nil {
		lock.Close()
		return nil, fmt.Errorf("cluster %s: %w", c.name, ErrNotRunning)
	}
	if !errors.Is(err, ErrRunning) {
		return nil, err
	}
	data, err := os.ReadFile(c.path("pid"))
	if err != nil {
		return nil, err
	}
	if c.pid, err = strconv.Atoi(string(data)); err != nil {
		return nil, err
	}
	c.api, err = c.newAPIClient()
	return c, err
}

// ErrNotRunning and ErrRunning say that no cluster, or that already one, runs under the name.
var (
	ErrNotRunning = errors.New("no cluster of that name is running")
	ErrRunning    = errors.New("a cluster of that name is running")
)

// newCluster is a cluster's description; nothing runs yet.
func newCluster(o Options) (*Cluster, error) {
	if os.Getenv(roleVariable) != "" {
		return nil, errors.New("the program that starts a cluster must run under cluster.Main")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root")
	}
	if o.Name == "" {
		o.Name = "default"
	}
	if !regexp.MustCompile(`^[a-z0-9-]{1,40}$`).MatchString(o.Name) {
		return nil, fmt.Errorf("cluster name %q: only lower-case letters, digits and dashes, at most 40", o.Name)
	}
	if o.Root == "" {
		var err error
		if o.Root, err = FindRoot(); err != nil {
			return nil, err
		}
	}
	kube, tools, err := binaries(o.Root)
	if err != nil {
		return nil, err
	}
	run := filepath.Join(cacheDir(o.Root), "run")
	return &Cluster{
		layout: layout{
			dir:   filepath.Join(run, o.Name),
			logs:  filepath.Join(cacheDir(o.Root), "logs", o.Name),
			kube:  kube,
			tools: tools,
		},
		name: o.Name,
		lock: filepath.Join(run, o.Name+".lock"),
	}, nil
}

// FindRoot is the nearest directory, upwards from the working directory, that holds this repository.
func FindRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test/e2e/cluster/kube/go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in the Keywell repository", start)
		}
	}
}

// lockFile takes the lock that says that something of a cluster is there. It does not wait.
func lockFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// clearLeftovers does the janitor's work in the place of one that was killed. The caller has the lock.
func (c *Cluster) clearLeftovers() error {
	data, err := os.ReadFile(c.path("spec.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(c.dir)
	}
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	return s.clear()
}

// launch writes the cluster's files and starts its two processes. On an error Stop clears up.
func (c *Cluster) launch(o Options, lock *os.File) (err error) {
	if err := c.clearLeftovers(); err != nil {
		return fmt.Errorf("clear what an earlier one left: %w", err)
	}
	if err := os.RemoveAll(c.logs); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(c.logs, 0o755), os.MkdirAll(c.dir, 0o755)); err != nil {
		return err
	}
	s := spec{Dir: c.dir, Logs: c.logs, Detached: o.Detached, Environment: c.environment(), Components: c.components()}
	if s.Cgroups, err = newCgroups(fmt.Sprintf("keywell-e2e-%s-%d", c.name, os.Getpid())); err != nil {
		return err
	}
	data, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("spec.json"), data, 0o600); err != nil {
		return err
	}
	// From here on the janitor clears up: as soon as nobody holds alive, which is this process and then the node.
	watch, alive, err := os.Pipe()
	if err != nil {
		return err
	}
	defer alive.Close()
	if err := c.startJanitor(watch, lock); err != nil {
		return errors.Join(err, s.clear())
	}
	for _, group := range s.Cgroups {
		if err := group.create(); err != nil {
			return err
		}
	}
	if err := c.write(); err != nil {
		return err
	}
	if c.api, err = c.newAPIClient(); err != nil {
		return err
	}
	return c.startNode(o.Detached, alive)
}

func (c *Cluster) startJanitor(watch, lock *os.File) error {
	defer watch.Close()
	cmd := roleCommand(roleJanitor, c.path("spec.json"))
	cmd.ExtraFiles = []*os.File{watch, lock}
	return c.startRole(cmd, "janitor", nil)
}

func (c *Cluster) startNode(detached bool, alive *os.File) error {
	watch, owner, err := os.Pipe()
	if err != nil {
		return err
	}
	defer watch.Close()
	cmd := roleCommand(roleJoin, c.path("spec.json"))
	cmd.ExtraFiles = []*os.File{watch, alive}
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	exited := make(chan struct{})
	if err := c.startRole(cmd, "node", exited); err != nil {
		owner.Close()
		return err
	}
	c.pid, c.exited = cmd.Process.Pid, exited
	if detached {
		owner.Close()
	} else {
		c.owner = owner
	}
	return os.WriteFile(c.path("pid"), []byte(strconv.Itoa(c.pid)), 0o644)
}

// startRole starts the command with a log of its own, and closes exited, unless it is nil, when it has ended.
func (c *Cluster) startRole(cmd *exec.Cmd, name string, exited chan<- struct{}) error {
	log, err := os.Create(filepath.Join(c.logs, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait()
		if exited != nil {
			close(exited)
		}
	}()
	return nil
}

// Stop ends the cluster and returns when nothing is left of it but its logs. It takes about 2 s. That the cluster has ended
// already is no error.
func (c *Cluster) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	if err := c.kill(); err != nil {
		return fmt.Errorf("cluster %s: %w", c.name, err)
	}
	err := poll(ctx, func(context.Context) error {
		lock, err := lockFile(c.lock)
		if err == nil {
			lock.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cluster %s: wait for its end: %w", c.name, err)
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster %s: not all is cleared away: %s", c.name, c.tail("janitor"))
	}
	return nil
}

// kill ends the node if it is still there. The janitor's lock tells: without it the number may be another process's.
func (c *Cluster) kill() error {
	if c.owner != nil {
		c.owner.Close()
	}
	if c.pid == 0 {
		return nil
	}
	node, err := os.FindProcess(c.pid) // from here on the number cannot change its meaning
	if err != nil {
		return err
	}
	defer node.Release()
	lock, err := lockFile(c.lock)
	if err == nil {
		return lock.Close()
	}
	if !errors.Is(err, ErrRunning) {
		return err
	}
	if err := node.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// poll calls f until it succeeds. When ctx ends first, the error is f's last.
func poll(ctx context.Context, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Logs is the directory of the components' logs: NAME.log each. It outlives the cluster, until the next of its name starts.
func (c *Cluster) Logs() string { return c.logs }

// Kubeconfig is the path of the administrator's kubeconfig. Its server is reached from within the cluster's network only.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig("admin") }

// PID is the process whose end is the cluster's.
func (c *Cluster) PID() int { return c.pid }
