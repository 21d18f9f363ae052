package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/confine"
	"github.com/keywell/keywell/pkg/secret"
)

// runFlags are the flags of agent run.
type runFlags struct {
	manifestFlags
	logFlags
	kubernetes kubernetesFlags

	nodeID    string
	stateDir  string
	csiSocket string
	roots     list
	api       api.Addresses
	http      string
	grpc      string
	metrics   string
	health    string
	audit     string
	maxVolume int64
	maxNode   int64
}

func (r *runFlags) register(f flags) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	r.manifestFlags.register(f)
	r.logFlags.register(f)
	r.kubernetes.register(f)
	f.StringVar(&r.nodeID, "node-id", host, "`name` of this node in CSI answers")
	f.StringVar(&r.stateDir, "state-dir", defaultStateDir, "`directory` for records of published volumes, best on a tmpfs")
	f.StringVar(&r.csiSocket, "csi-socket", defaultCSISocket, "`path` of the CSI socket; empty: no volumes")
	f.Var(&r.roots, "target-root", "`directory` below which volumes may be mounted; may be repeated (default "+standaloneRoot+" and, where it exists, "+kubeletRoot+")")
	f.StringVar(&r.http, "http-address", defaultHTTPAddress, "`address` of the HTTP API; empty: none")
	f.StringVar(&r.grpc, "grpc-address", defaultGRPCAddress, "`address` of the gRPC API; empty: none")
	f.StringVar(&r.api.SocketDir, "unix-domain-socket", "", "`directory` for Unix sockets of the API, which replace its addresses")
	f.StringVar(&r.api.PluginSocket, "dapr-plugin-socket", "", "`path` of a Unix socket on which a daprd has the stores as pluggable ones; empty: none")
	f.StringVar(&r.metrics, "metrics-address", defaultMetricsAddress, "`address` of /metrics; empty: none")
	f.StringVar(&r.health, "health-address", "", "`address` of /healthz and /readyz; empty: none")
	f.StringVar(&r.audit, "audit-log", "-", "`file` that audit records are appended to; -: standard output; empty: none")
	f.Int64Var(&r.maxVolume, "max-volume-bytes", 16<<20, "largest volume, in `bytes`")
	f.Int64Var(&r.maxNode, "max-node-bytes", 256<<20, "all volumes together, in `bytes`: tmpfs pages are charged to the agent")
}

// addresses returns where the API listens.
func (r *runFlags) addresses() api.Addresses {
	a := r.api
	a.AppID = r.appID
	if r.http != "" {
		a.HTTP = []string{r.http}
	}
	if r.grpc != "" {
		a.GRPC = []string{r.grpc}
	}
	return a
}

// capabilities returns what the agent needs of root's rights. What it needs in Kubernetes is in the chart too, and
// explained in docs/install.md.
func (r *runFlags) capabilities() []int {
	var keep []int
	if r.csiSocket != "" {
		keep = append(keep, unix.CAP_CHOWN, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_SYS_ADMIN)
	} else if r.kubernetes.runtime != "" {
		keep = append(keep, unix.CAP_SYS_ADMIN) // to enter the network namespaces of pods
	}
	if !r.kubernetes.enabled { // flags may name files and directories of others, and ports below 1024
		keep = append(keep, unix.CAP_DAC_OVERRIDE, unix.CAP_NET_BIND_SERVICE)
	}
	return keep
}

// runAgent serves until ctx ends.
func runAgent(ctx context.Context, args []string, out, errOut io.Writer) error {
	var r runFlags
	f := newFlags("run", "", errOut)
	r.register(f)
	if err := f.parse(args, 0); err != nil {
		return err
	}
	if err := checkSources(&r.manifestFlags); err != nil {
		return err
	}
	r.kubernetes.classes = len(r.providers) > 0
	if r.kubernetes.runtime != "" && !r.kubernetes.enabled {
		return errors.New("--container-runtime is for the pods of a node: add --kubernetes, or leave it out")
	}
	if r.api.PluginSocket != "" && r.kubernetes.enabled {
		return errors.New("--dapr-plugin-socket does not tell pods apart: leave it out with --kubernetes, where pods have sockets of their own (volume attribute api: dapr-plugin)")
	}
	logger, err := r.logger(errOut)
	if err != nil {
		return err
	}
	if r.csiSocket != "" && os.Geteuid() != 0 {
		return errors.New("mounting volumes needs root: run the agent as root, or serve the API alone with --csi-socket=''")
	}
	if r.kubernetes.runtime != "" && os.Geteuid() != 0 {
		return errors.New("entering the network namespaces of pods needs root: run the agent as root, or leave out --container-runtime")
	}
	if err := confine.Process(r.capabilities()...); err != nil {
		return err
	}
	audit, closeAudit, err := r.auditLogger(out)
	if err != nil {
		return err
	}
	defer closeAudit()

	token := secret.FromString(os.Getenv("DAPR_API_TOKEN"))
	a, err := newAgent(&r, token, logger, audit)
	if err != nil {
		return err
	}
	return a.run(ctx)
}

// auditLogger returns the logger for audit records, and a func that writes what waits and closes its file. The logger is
// nil for none.
func (r *runFlags) auditLogger(out io.Writer) (*slog.Logger, func(), error) {
	closeFile := func() {}
	switch r.audit {
	case "":
		return nil, closeFile, nil
	case "-":
	default:
		file, err := os.OpenFile(r.audit, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("open audit log: %w", err)
		}
		out, closeFile = file, func() { _ = file.Close() }
	}
	w := newAuditWriter(out)
	return slog.New(slog.NewJSONHandler(w, nil)), func() { w.Flush(); closeFile() }, nil
}
