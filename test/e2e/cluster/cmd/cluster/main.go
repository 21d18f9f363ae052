// Command cluster starts and ends the test cluster by hand.
//
//	cluster build              make the cluster's binaries where they are missing
//	cluster up                 start a cluster that stays
//	cluster run -- COMMAND     run COMMAND in the cluster's network, with kubectl, helm and ctr in its PATH;
//	                           where none is up, in one that ends with the command
//	cluster down               end the cluster
//
// -name NAME before the verb tells clusters apart that are up at the same time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/test/e2e/cluster"
)

func main() { os.Exit(cluster.Main(command)) }

func command() int {
	name := flag.String("name", "", "the cluster's `name`; default \"default\"")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: cluster [-name NAME] build | up | down | run -- COMMAND [ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()

	err := act(ctx, cluster.Options{Name: *name}, flag.Args())
	var status exitStatus
	switch {
	case errors.Is(err, flag.ErrHelp):
		flag.Usage()
		return 2
	case errors.As(err, &status):
		return int(status)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return 0
}

// exitStatus is that of the command that run was given, which has said itself what was wrong.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// act does what the arguments say; flag.ErrHelp says that they are not understood.
func act(ctx context.Context, o cluster.Options, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "build":
		root, err := cluster.FindRoot()
		if err != nil {
			return err
		}
		return cluster.Build(ctx, root)
	case len(args) == 1 && args[0] == "up":
		o.Detached = true
		c, err := start(ctx, o)
		if err != nil {
			return err
		}
		fmt.Printf("kubeconfig: %s\nlogs: %s\nprocess: %d\n", c.Kubeconfig(), c.Logs(), c.PID())
		return nil
	case len(args) == 1 && args[0] == "down":
		c, err := cluster.Open(o)
		if err != nil {
			return err
		}
		return c.Stop()
	case len(args) > 2 && args[0] == "run" && args[1] == "--":
		return run(ctx, o, args[2:])
	}
	return flag.ErrHelp
}

func start(ctx context.Context, o cluster.Options) (*cluster.Cluster, error) {
	began := time.Now()
	c, err := cluster.Start(ctx, o)
	if err == nil {
		fmt.Fprintf(os.Stderr, "cluster: ready after %.1f s\n", time.Since(began).Seconds())
	}
	return c, err
}

// run runs the command in the cluster that is up or in one of its own.
func run(ctx context.Context, o cluster.Options, args []string) (err error) {
	c, err := cluster.Open(o)
	if errors.Is(err, cluster.ErrNotRunning) {
		if c, err = start(ctx, o); err == nil {
			defer func() { err = errors.Join(err, c.Stop()) }()
		}
	}
	if err != nil {
		return err
	}
	cmd := c.Command(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Run()
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		return exitStatus(max(exited.ExitCode(), 1)) // -1 stands for a signal
	}
	return err
}
