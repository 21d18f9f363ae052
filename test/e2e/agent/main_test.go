package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywell/keywell/build/oci"
	"github.com/keywell/keywell/test/e2e/cluster"
)

// Images that are made for the tests. The busybox image is in every cluster.
const (
	agentRepository = "keywell.test/keywell"
	agentTag        = "e2e"
	clientImage     = "keywell.test/client:1"
)

var (
	node    *cluster.Cluster // the one of all tests
	kubeAPI *apiServer       // its API server
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(func() int { return run(m) })) }

// run is main with deferred calls: the cluster ends whatever happens.
func run(m *testing.M) (code int) {
	if os.Geteuid() != 0 {
		return m.Run() // each test says that it is skipped
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop, err := setUp(ctx)
	if kubeAPI != nil {
		defer kubeAPI.stop()
	}
	if stop != nil {
		defer func() {
			if err := stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up:", err)
		return 1
	}
	code = m.Run()
	printMeasurements()
	return code
}

// setUp starts the cluster and gives it the images. What it returns ends the cluster; it is nil if there is none to end.
func setUp(ctx context.Context) (stop func() error, err error) {
	root, err := cluster.FindRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, ".cache/e2e/images") // kept, so that what has not changed is not linked again
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := buildImages(ctx, root, dir); err != nil {
		return nil, err
	}
	if name := os.Getenv("KEYWELL_CLUSTER"); name != "" {
		node, err = cluster.Open(cluster.Options{Name: name})
	} else {
		node, err = cluster.Start(ctx, cluster.Options{Name: "agent"})
		if node != nil {
			stop = node.Stop
		}
	}
	if err != nil {
		return stop, err
	}
	for _, archive := range []string{"agent.tar", "client.tar"} {
		if err := node.ImportImage(ctx, filepath.Join(dir, archive)); err != nil {
			return stop, err
		}
	}
	kubeAPI, err = startProxy(ctx)
	return stop, err
}

// buildImages makes the archives of the agent's image, as make image does, and of the client's.
func buildImages(ctx context.Context, root, dir string) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		output(exec.CommandContext(ctx, "make", "-s", "-C", root, "image", "VERSION="+agentTag,
			"IMAGE="+agentRepository+":"+agentTag, "BIN="+in("agent"), "ARCHIVE="+in("agent.tar"))),
		output(staticBuild(ctx, filepath.Join(root, "test/e2e/agent/client"), in("client"))),
	)
	if err != nil {
		return err
	}
	client, err := os.ReadFile(in("client"))
	if err != nil {
		return err
	}
	if err := os.Remove(in("client.tar")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return cluster.WriteImage(in("client.tar"), oci.Image{
		Name:       clientImage,
		Files:      []oci.File{{Path: "client", Mode: 0o755, Data: client}},
		Entrypoint: []string{"/client"},
	})
}

func staticBuild(ctx context.Context, module, program string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// output runs the command; its error has what the command said.
func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

var measurements [][2]string

// measured puts a line into the table that is printed at the end.
func measured(t *testing.T, what, format string, args ...any) {
	t.Helper()
	value := fmt.Sprintf(format, args...)
	t.Logf("%s: %s", what, value)
	measurements = append(measurements, [2]string{what, value})
}

func printMeasurements() {
	for _, m := range measurements {
		fmt.Printf("%-70s %s\n", m[0], m[1])
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
