package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bundle is a directory of binaries that are built together and kept under a hash of all that they are built from.
type bundle struct {
	name   string
	inputs []string // files, relative to test/e2e
	steps  []step
	links  map[string][]string // binary → the other names it is called by
}

// step is one run of the go tool; its output is the directory under construction, or a file in it.
type step struct {
	dir    string // the module, relative to test/e2e
	output string // a file's name, or "" for one per package
	cgo    bool
	args   []string
}

// bundles are what a cluster runs. Dependencies come from go.mod and go.sum alone, so those stand for all of them.
func bundles(e2e string) (kube, tools bundle, err error) {
	kubernetes, err := requiredVersion(filepath.Join(e2e, "cluster/kube/go.mod"), "k8s.io/kubernetes")
	if err != nil {
		return kube, tools, err
	}
	containerd, err := requiredVersion(filepath.Join(e2e, "cluster/tools/go.mod"), "github.com/containerd/containerd/v2")
	if err != nil {
		return kube, tools, err
	}
	// The node reports this version, and a chart's kubeVersion is compared with it.
	number := strings.SplitN(strings.TrimPrefix(kubernetes, "v"), ".", 3)
	const versions = "k8s.io/component-base/version"
	kube = bundle{
		name:   "kube",
		inputs: []string{"cluster/kube/go.mod", "cluster/kube/go.sum", "cluster/kube/main.go"},
		steps: []step{{dir: "cluster/kube", output: "kube", args: []string{
			"-tags", "netgo,osusergo",
			"-ldflags", fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s",
				versions, kubernetes, number[0], number[1]),
			".",
		}}},
		links: map[string][]string{"kube": {
			"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
		}},
	}
	tools = bundle{
		name:   "tools",
		inputs: []string{"cluster/tools/go.mod", "cluster/tools/go.sum", "cluster/cmd/pause/main.go"},
		steps: []step{
			{dir: "cluster/tools", args: []string{
				"-tags", "no_btrfs,no_zfs,no_devmapper,no_aufs",
				"-ldflags", "-s -w -X github.com/containerd/containerd/v2/version.Version=" + strings.TrimPrefix(containerd, "v"),
				"github.com/containerd/containerd/v2/cmd/containerd",
				"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
				"github.com/containerd/containerd/v2/cmd/ctr",
			}},
			{dir: "cluster/tools", args: []string{
				"-ldflags", "-s -w",
				"github.com/containernetworking/plugins/plugins/main/ptp",
				"github.com/containernetworking/plugins/plugins/main/loopback",
				"github.com/containernetworking/plugins/plugins/ipam/host-local",
				"helm.sh/helm/v4/cmd/helm",
			}},
			// Without the seccomp tag a pod that asks for the runtime's default profile does not start.
			{dir: "cluster/tools", cgo: true, args: []string{
				"-tags", "netgo,osusergo,seccomp",
				"-ldflags", "-s -w -extldflags -static",
				"github.com/opencontainers/runc",
			}},
			{dir: ".", args: []string{"-ldflags", "-s -w", "./cluster/cmd/pause"}},
		},
	}
	return kube, tools, nil
}

func requiredVersion(gomod, module string) (string, error) {
	data, err := os.ReadFile(gomod)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(f) >= 2 && f[0] == module {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", gomod, module)
}

// Build makes the binaries that a cluster runs, in the cache of the repository at root, and first installs the Debian
// packages that it needs and does not find. It does nothing where all is there. A first build takes some 15 minutes of
// two processors; one after a change of the dependencies a fraction of that. The go tool's messages go to stderr.
func Build(ctx context.Context, root string) error {
	if err := installPackages(ctx); err != nil {
		return err
	}
	e2e := filepath.Join(root, "test/e2e")
	kube, tools, err := bundles(e2e)
	if err != nil {
		return err
	}
	for _, b := range []bundle{tools, kube} {
		if err := b.build(ctx, e2e, cacheDir(root)); err != nil {
			return fmt.Errorf("build %s: %w", b.name, err)
		}
	}
	return nil
}

// binaries are the directories of a finished Build.
func binaries(root string) (kubeDir, toolsDir string, err error) {
	e2e := filepath.Join(root, "test/e2e")
	kube, tools, err := bundles(e2e)
	if err != nil {
		return "", "", err
	}
	if kubeDir, err = kube.dir(e2e, cacheDir(root)); err != nil {
		return "", "", err
	}
	if toolsDir, err = tools.dir(e2e, cacheDir(root)); err != nil {
		return "", "", err
	}
	for _, dir := range []string{kubeDir, toolsDir} {
		if _, err := os.Stat(dir); err != nil {
			return "", "", fmt.Errorf("the cluster's binaries are not built (run make e2e-build): %w", err)
		}
	}
	return kubeDir, toolsDir, nil
}

func cacheDir(root string) string { return filepath.Join(root, ".cache/e2e") }

// dir is where the bundle belongs: the cache, the bundle's name and a hash of everything that its content depends on.
func (b bundle) dir(e2e, cache string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, b.steps, b.links)
	for _, name := range b.inputs {
		data, err := os.ReadFile(filepath.Join(e2e, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	return filepath.Join(cache, fmt.Sprintf("%s-%.6x", b.name, h.Sum(nil))), nil
}

// build makes the bundle unless it is there. It appears under its name complete or not at all.
func (b bundle) build(ctx context.Context, e2e, cache string) error {
	final, err := b.dir(e2e, cache)
	if err != nil {
		return err
	}
	if _, err := os.Stat(final); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(cache, b.name+"-unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	for _, s := range b.steps {
		if err := s.run(ctx, e2e, temporary); err != nil {
			return err
		}
	}
	for binary, names := range b.links {
		for _, name := range names {
			if err := os.Symlink(binary, filepath.Join(temporary, name)); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	// Another build of the same may have been faster; its result is as good.
	if err := os.Rename(temporary, final); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (s step) run(ctx context.Context, e2e, out string) error {
	output := out + "/"
	if s.output != "" {
		output = filepath.Join(out, s.output)
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-buildvcs=false", "-o", output}, s.args...)...)
	cmd.Dir = filepath.Join(e2e, s.dir)
	cgo := "CGO_ENABLED=0"
	if s.cgo {
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), cgo)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	fmt.Fprintf(os.Stderr, "cd %s && %s go build %s\n", cmd.Dir, cgo, strings.Join(s.args, " "))
	return cmd.Run()
}
