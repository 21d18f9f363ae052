package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroup is the cluster's control group in one hierarchy of version 1.
type cgroup struct {
	Options string // to mount the hierarchy with: "cpu,cpuacct", or "none,name=systemd" for one without controllers
	Mount   string // where it belongs: "/sys/fs/cgroup/cpu,cpuacct"
	Dir     string // the group, as seen outside the cluster
}

// newCgroups names a group for the cluster in every hierarchy, below the group that this process is in. It makes none.
func newCgroups(name string) ([]cgroup, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var all []cgroup
	for line := range strings.Lines(string(data)) { // "4:memory:/user/7", "5:name=systemd:/user/7"
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] == "" {
			continue // version 2 has no controllers there
		}
		options := f[1]
		label, named := strings.CutPrefix(f[1], "name=")
		if named {
			options = "none," + f[1]
		}
		mount := filepath.Join(cgroupRoot, label)
		all = append(all, cgroup{Options: options, Mount: mount, Dir: filepath.Join(mount, f[2], name)})
	}
	if len(all) == 0 {
		return nil, errors.New("this machine has no version 1 control groups; the cluster does not work with version 2 alone")
	}
	return all, nil
}

// create makes the group and gives it its parent's processors and memory nodes, without which nothing can join it.
func (c cgroup) create() error {
	if err := os.Mkdir(c.Dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(c.Dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not the hierarchy of cpuset
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.Dir, name), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// join moves this process, with all its threads, into the group.
func (c cgroup) join() error {
	return os.WriteFile(filepath.Join(c.Dir, "cgroup.procs"), []byte("0"), 0o644)
}

// remove removes the group and those below it. It waits until the processes in them are gone.
func (c cgroup) remove(ctx context.Context) error {
	for {
		err := removeCgroupTree(c.Dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// removeCgroupTree removes directories only: the files of a control group go with it.
func removeCgroupTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("below %s: %w", dir, err)
			}
		}
	}
	return os.Remove(dir)
}
