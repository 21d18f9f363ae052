// Command agent is Keywell's node agent and its tools.
//
// This package is the only place that knows everything: it turns flags into manifests, manifests into stores and
// policies, and wires the ways in (CSI, API, rotation) to the one door to stores. It holds no behaviour of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "dev"

// command is one subcommand. run returns nil, or an error that has not been printed yet; flag.ErrHelp has.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, out, errOut io.Writer) error
}

func commands() []command {
	return []command{
		{"run", "serve volumes and the secrets API on this machine", runAgent},
		{"check", "validate manifests and print file, line, field and remedy of each problem", check},
		{"explain", "print the rule that decides whether an identity may read a secret", explain},
		{"mount", "publish a volume through a running agent, without Kubernetes", mountVolume},
		{"unmount", "unpublish a volume that mount published", unmountVolume},
		{"version", "print the version", printVersion},
	}
}

// errFailed makes the process exit with 1 without another message.
var errFailed = errors.New("failed")

func main() { os.Exit(dispatch(os.Args[1:], os.Stdout, os.Stderr)) }

// dispatch runs one command line and returns the exit status: 0, 1 for a failure, 2 for a wrong command line.
func dispatch(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name != args[0] {
				continue
			}
			switch err := c.run(ctx, args[1:], out, errOut); {
			case err == nil, errors.Is(err, flag.ErrHelp):
				return 0
			case errors.Is(err, errUsage):
				return 2
			case errors.Is(err, errFailed):
				return 1
			default:
				fmt.Fprintf(errOut, "agent %s: %v\n", c.name, err)
				return 1
			}
		}
	}
	usage(errOut)
	if len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
		return 0
	}
	return 2
}

func usage(w io.Writer) {
	fmt.Fprintf(w, "Keywell %s gives pods their secrets.\n\nUsage: agent COMMAND [FLAGS]\n\n", version)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-8s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\nagent COMMAND -h lists the flags of a command.\n")
}

func printVersion(_ context.Context, _ []string, out, _ io.Writer) error {
	_, err := fmt.Fprintln(out, version)
	return err
}
