package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/keywell/keywell/pkg/scope"
)

// errUsage marks a command line that can't be carried out; the message has been printed.
var errUsage = errors.New("usage")

// Defaults of paths and addresses. The API addresses are Dapr's, on loopback.
const (
	defaultStateDir       = "/run/keywell"
	defaultCSISocket      = "/run/keywell/csi.sock"
	defaultHTTPAddress    = "127.0.0.1:3500"
	defaultGRPCAddress    = "127.0.0.1:50001"
	defaultMetricsAddress = "127.0.0.1:9090"
	defaultAppID          = "keywell"
	defaultResources      = "/etc/keywell/resources"
)

// Directories below which volumes may be mounted, unless flags name others.
const (
	standaloneRoot = "/run/keywell/volumes"
	kubeletRoot    = "/var/lib/kubelet/pods"
)

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// flags is a flag set that prints its own errors.
type flags struct{ *flag.FlagSet }

func newFlags(name, arguments string, errOut io.Writer) flags {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(errOut)
	f.Usage = func() {
		fmt.Fprintf(errOut, "Usage: agent %s\n", strings.TrimSpace(name+" [FLAGS] "+arguments))
		f.PrintDefaults()
	}
	return flags{f}
}

// parse returns flag.ErrHelp or errUsage; both have been printed. There must be as many arguments as count.
func (f flags) parse(args []string, count int) error {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	case f.NArg() != count:
		fmt.Fprintf(f.Output(), "agent %s takes %d arguments, got %d\n", f.Name(), count, f.NArg())
		f.Usage()
		return errUsage
	}
	return nil
}

// manifestFlags say where manifests are and for whom.
type manifestFlags struct {
	resources, configs list
	appID              string
	plugins            string
	providers          list
}

func (m *manifestFlags) register(f flags) {
	f.Var(&m.resources, "resources-path", "`directory` of Component and AccessPolicy manifests, watched; may be repeated (default "+defaultResources+")")
	f.Var(&m.configs, "config", "Configuration manifest `file` with secret scopes, watched; may be repeated")
	f.StringVar(&m.plugins, "components-sockets", os.Getenv("DAPR_COMPONENTS_SOCKETS_FOLDER"), "`directory` of the sockets of Dapr's pluggable secret stores, watched; empty: none")
	f.Var(&m.providers, "provider-sockets", "`directory` of the sockets of the Secrets Store CSI driver's providers, by which SecretProviderClasses are read; may be repeated; none: they are not read")
	f.StringVar(&m.appID, "app-id", defaultAppID, "Dapr app `id` of the one caller in standalone use")
}

// caller is who asks in standalone use: one application, as with a Dapr sidecar.
func (m *manifestFlags) caller() scope.Identity {
	return scope.Identity{Namespace: os.Getenv("NAMESPACE"), AppID: m.appID}
}

// logFlags choose how much is logged and in which form.
type logFlags struct {
	level  slog.Level
	format string
}

func (l *logFlags) register(f flags) {
	f.TextVar(&l.level, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn or error")
	f.StringVar(&l.format, "log-format", "text", "`form` of logs: text or json")
}

func (l *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: l.level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	default:
		return nil, fmt.Errorf("log format %q is neither text nor json", l.format)
	}
}
