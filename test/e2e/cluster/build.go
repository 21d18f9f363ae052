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

// kubeBundle is etcd and Kubernetes. Like that of tools, its dependencies come from go.mod and go.sum alone.
func kubeBundle(e2e string) (bundle, error) {
	version, err := requiredVersion(filepath.Join(e2e, "cluster/kube/go.mod"), "k8s.io/kubernetes")
	if err != nil {
		return bundle{}, err
	}
	// The node reports this version, and a chart's kubeVersion is compared with it.
	number := strings.Split(strings.TrimPrefix(version, "v"), ".")
	const variables = "k8s.io/component-base/version"
	return bundle{
		name:   "kube",
		inputs: []string{"cluster/kube/go.mod", "cluster/kube/go.sum", "cluster/kube/main.go"},
		steps: []step{{dir: "cluster/kube", output: "kube", args: []string{
			"-tags", "netgo,osusergo",
			"-ldflags", fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s",
				variables, version, number[0], number[1]),
			".",
		}}},
		links: map[string][]string{"kube": {
			"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
		}},
	}, nil
}

// toolsBundle is what runs beside Kubernetes.
func toolsBundle(e2e string) (bundle, error) {
	version, err := requiredVersion(filepath.Join(e2e, "cluster/tools/go.mod"), "github.com/containerd/containerd/v2")
	if err != nil {
		return bundle{}, err
	}
	return bundle{
		name:   "tools",
		inputs: []string{"cluster/tools/go.mod", "cluster/tools/go.sum", "cluster/cmd/pause/main.go"},
		steps: []step{
			{dir: "cluster/tools", args: []string{
				"-tags", "no_btrfs,no_zfs,no_devmapper,no_aufs",
				"-ldflags", "-s -w -X github.com/containerd/containerd/v2/version.Version=" + strings.TrimPrefix(version, "v"),
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
	}, nil
}

// requiredVersion is the version of the module that the go.mod file requires.
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
	return eachBundle(root, func(b bundle, final string) error { return b.build(ctx, filepath.Join(root, "test/e2e"), final) })
}

// binaries are the directories of a finished Build.
func binaries(root string) (kube, tools string, err error) {
	dirs := map[string]string{}
	err = eachBundle(root, func(b bundle, final string) error {
		dirs[b.name] = final
		if _, err := os.Stat(final); err != nil {
			return fmt.Errorf("not built yet (run make e2e-build): %w", err)
		}
		return nil
	})
	return dirs["kube"], dirs["tools"], err
}

// eachBundle calls f with each bundle and the directory where it belongs, until an error.
func eachBundle(root string, f func(b bundle, final string) error) error {
	e2e := filepath.Join(root, "test/e2e")
	for _, describe := range []func(e2e string) (bundle, error){toolsBundle, kubeBundle} {
		b, err := describe(e2e)
		if err != nil {
			return err
		}
		hash, err := b.hash(e2e)
		if err != nil {
			return err
		}
		if err := f(b, filepath.Join(cacheDir(root), fmt.Sprintf("%s-%.6x", b.name, hash))); err != nil {
			return fmt.Errorf("the cluster's binaries (%s): %w", b.name, err)
		}
	}
	return nil
}

func cacheDir(root string) string { return filepath.Join(root, ".cache/e2e") }

// hash is over everything that the bundle's content depends on.
func (b bundle) hash(e2e string) ([]byte, error) {
	h := sha256.New()
	fmt.Fprintln(h, b.steps, b.links)
	for _, name := range b.inputs {
		data, err := os.ReadFile(filepath.Join(e2e, name))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	return h.Sum(nil), nil
}

// build makes the bundle unless it is there. It appears as final complete or not at all.
func (b bundle) build(ctx context.Context, e2e, final string) error {
	if _, err := os.Stat(final); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(final), b.name+"-unfinished-")
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
