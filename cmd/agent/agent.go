package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/builtin"
	"github.com/keywell/keywell/pkg/providers/csiprovider"
	"github.com/keywell/keywell/pkg/providers/daprplugin"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/rotation"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/stores"
	"github.com/keywell/keywell/pkg/volume"
	"github.com/keywell/keywell/pkg/volume/mount"
	"github.com/keywell/keywell/pkg/watch"
)

// agent is all parts, wired. What one part tells another goes through the methods below, so this file shows every way
// that parts are connected.
type agent struct {
	flags    *runFlags
	log      *slog.Logger
	registry *prometheus.Registry

	policy    scope.Live
	watcher   *component.Watcher
	objects   *component.Objects // nil: none are read
	manifests manifests
	resolver  *resolve.Resolver
	stores    *stores.Set
	plugins   *daprplugin.Directory // nil: none
	volumes   *volume.Set           // nil if there is no CSI socket
	scheduler *rotation.Scheduler
	csi       *csi.Server
	api       *api.Server
	watches   *watch.Hub
	pods      podSockets
	cluster   *cluster       // nil: standalone
	runtime   *cri.Runtime   // nil with localhost
	localhost *localhost.Set // nil: pods have no listeners of their own
}

// newAgent makes every part and starts none.
func newAgent(r *runFlags, token secret.Value, log, audit *slog.Logger) (*agent, error) {
	a := &agent{flags: r, log: log, registry: prometheus.NewRegistry(), pods: newPodSockets()}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	a.watcher = component.NewWatcher(component.WatcherOptions{
		Sources: r.sources(), OnChange: a.filesChanged, Logger: log, Registerer: a.registry,
	})
	a.resolver = resolve.New(resolve.Options{Logger: log, Audit: audit, Changed: a.secretChanged, Registerer: a.registry})
	caller := r.caller()
	attest := func(_ context.Context, e api.Evidence) (scope.Identity, error) { return standalone(caller, e), nil }
	identify := identity.Standalone(caller)
	var accounts providers.ServiceAccounts
	if r.kubernetes.enabled {
		var err error
		if a.cluster, err = newCluster(r.kubernetes, r.csiSocket, a.podsChanged, a.objectsChanged, log, a.registry); err != nil {
			return nil, err
		}
		if r.kubernetes.objects || r.kubernetes.classes {
			a.objects = component.NewObjects(component.ObjectsOptions{
				Trusted: component.TrustNamespaces(r.kubernetes.namespaces), AppID: r.appID, PodName: os.Getenv("POD_NAME"),
			})
		}
		attest, identify = a.cluster.attest, a.cluster.identify
		accounts = a.cluster.accounts
		token = secret.Value{} // each pod has its own
	}
	a.stores = stores.New(stores.Options{
		Drivers: builtin.Drivers(), Plugins: a.addPlugins(), Resolver: a.resolver, Policy: a.policy.Policy, ServiceAccounts: accounts, Logger: log, Registerer: a.registry,
	})
	a.watches = watch.New(watch.Options{Policy: &a.policy, Resolver: a.resolver, Tokens: a.tokens, Registerer: a.registry})
	a.api = api.New(api.Options{
		AppID: r.appID, Version: version, Policy: &a.policy, Resolver: a.resolver, Audit: a.resolver, Stores: apiStores{a.stores},
		Watches: a.watches, Attest: attest, Tokens: a.tokens, Token: token, Ready: a.notReady, Logger: log, Registerer: a.registry,
	})
	if r.csiSocket != "" {
		if err := a.addVolumes(identify); err != nil {
			return nil, err
		}
	}
	if a.cluster == nil || r.kubernetes.runtime == "" {
		return a, nil
	}
	return a, a.addLocalhost()
}

// addPlugins makes what finds plugins, if there may be any, and returns how to ask for the driver of a type that is not
// compiled in.
func (a *agent) addPlugins() func(typ string) (providers.Driver, bool) {
	if a.flags.plugins != "" {
		a.plugins = daprplugin.New(a.flags.plugins)
	}
	classes := csiprovider.Driver(csiprovider.Options{Directories: a.flags.providers, Audiences: a.flags.kubernetes.audiences})
	return func(typ string) (providers.Driver, bool) {
		switch {
		case typ == csiprovider.Type:
			return classes, len(a.flags.providers) > 0
		case a.plugins != nil:
			return a.plugins.Driver(typ)
		}
		return providers.Driver{}, false
	}
}

// addVolumes makes the parts that files need.
func (a *agent) addVolumes(identify func(volumeContext map[string]string) (scope.Identity, error)) error {
	roots, err := mountRoots(a.flags.roots)
	if err != nil {
		return err
	}
	mounter, err := mount.New(roots...)
	if err != nil {
		return err
	}
	a.scheduler, err = rotation.New(rotation.Options{Rotate: a.rotate, Logger: a.log, Registerer: a.registry})
	if err != nil {
		return err
	}
	var authorizer volume.Authorizer = &a.policy
	if a.cluster != nil {
		authorizer = podAuthorizer{&a.policy, a.cluster.pods.Renew}
	}
	a.volumes, err = volume.New(volume.Options{
		Authorizer: authorizer, Resolver: a.resolver, Leases: a.resolver, Mounter: mounter, StateDir: a.flags.stateDir,
		Serve: a.pods.serveVolume, Localhost: a.flags.kubernetes.runtime != "", Classes: len(a.flags.providers) > 0,
		Tokens: a.requestedTokens, Denied: a.readDenied,
		MaxVolumeBytes: a.flags.maxVolume, MaxNodeBytes: a.flags.maxNode,
		Published: a.volumePublished, Unpublished: a.scheduler.Remove,
		Logger: a.log, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.csi, err = csi.New(csi.Options{
		Version: version, NodeID: a.flags.nodeID, Volumes: a.volumes,
		Identify: identify, Ready: a.ready, Logger: a.log, Registerer: a.registry,
	})
	return err
}

// secretChanged passes on that the store of a key has other content for a secret, or for any if name is empty. Readers may
// call the store by its key or by its name, which other stores have too; to look at those for nothing costs no read.
func (a *agent) secretChanged(key, name string) {
	a.stores.Changed(key, name)
	called := []string{key}
	if short := path.Base(key); short != key {
		called = append(called, short)
	}
	for _, store := range called {
		a.watches.Changed(store, name)
		if a.volumes != nil {
			a.scheduler.Nudge(a.volumes.Using(store, name)...)
		}
	}
}

func (a *agent) volumePublished(id string, due time.Time) {
	a.scheduler.Add(id, due)
	a.podsChanged() // it may ask for listeners
}

// podsChanged is told that pods, their sandboxes or their volumes may have changed.
func (a *agent) podsChanged() {
	if a.localhost != nil {
		a.localhost.Nudge()
	}
}

func (a *agent) rotate(ctx context.Context, id string) (time.Time, error) {
	outcome, err := a.volumes.Rotate(ctx, id)
	if a.cluster != nil {
		a.cluster.tell(outcome, err)
	}
	return outcome.Next, err
}

func (a *agent) readDenied(ctx context.Context, d volume.Denial) {
	d.Ref.Store = a.policy.Policy().Key(d.Identity, d.Ref.Store)
	a.resolver.AuditDenied(ctx, d.Origin, d.Identity, d.Ref, d.Err)
}

// notReady names the parts that can't serve yet.
func (a *agent) notReady() []string {
	var parts []string
	select {
	case <-a.stores.Ready():
	default:
		parts = append(parts, "stores")
	}
	if a.cluster != nil {
		parts = append(parts, a.cluster.notReady()...)
	}
	return parts
}

func (a *agent) ready() error {
	if parts := a.notReady(); parts != nil {
		return fmt.Errorf("not ready: %v", parts)
	}
	return nil
}

// run serves until ctx ends or a part fails. Volumes stay mounted.
func (a *agent) run(ctx context.Context) error {
	listeners, err := api.Listen(ctx, a.flags.addresses())
	if err != nil {
		return err
	}
	listeners = a.pods.listeners(listeners)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.watcher.Run(ctx) })
	group.Go(func() error { return a.stores.Run(ctx) })
	group.Go(func() error { return a.resolver.Run(ctx) })
	if a.plugins != nil {
		group.Go(func() error { return a.plugins.Run(ctx, a.stores.Retry) })
	}
	group.Go(func() error { return a.api.Run(ctx, listeners) })
	group.Go(func() error { return a.serveMetrics(ctx) })
	group.Go(func() error { return a.settle(ctx) })
	group.Go(func() error { return a.serveHealth(ctx) })
	if a.cluster != nil {
		group.Go(func() error { return a.cluster.run(ctx) })
	}
	if a.volumes != nil {
		group.Go(func() error { return a.runVolumes(ctx) })
	}
	if a.localhost != nil {
		group.Go(func() error { return a.runtime.Run(ctx) })
		group.Go(func() error { return a.localhost.Run(ctx) })
	}
	a.log.Info("agent started", "version", version, "app_id", a.flags.appID)
	err = group.Wait()
	a.stores.Close()
	a.resolver.Close()
	a.log.Info("agent stopped")
	return err
}

// runVolumes takes the CSI socket, which one agent at a time can hold, finds the volumes of the agent before, and serves
// and rotates volumes until ctx ends.
func (a *agent) runVolumes(ctx context.Context) error {
	socket, err := csi.Listen(a.flags.csiSocket)
	if err != nil {
		return err
	}
	if err := a.volumes.Recover(ctx); err != nil {
		a.log.Error("some volumes were not recovered", "err", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.csi.Serve(ctx, socket) })
	group.Go(func() error { return a.rotateWhenReady(ctx) })
	return group.Wait()
}

// rotateWhenReady waits for the stores, so that no volume is rotated against an empty policy. Then the volumes that were
// found are read again at once: what changed while no agent ran has waited long enough.
func (a *agent) rotateWhenReady(ctx context.Context) error {
	select {
	case <-a.stores.Ready():
		a.scheduler.Nudge(a.volumes.IDs()...)
		return a.scheduler.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

func logProblems(log *slog.Logger, problems []component.Problem) {
	for _, p := range problems {
		level := slog.LevelInfo
		switch p.Severity {
		case component.Error:
			level = slog.LevelError
		case component.Warning:
			level = slog.LevelWarn
		}
		log.LogAttrs(context.Background(), level, "manifest problem",
			slog.String("position", p.Position.String()), slog.String("field", p.Field),
			slog.String("problem", p.Message), slog.String("remedy", p.Remedy))
	}
}

// apiStores shows the API what it needs of the stores.
type apiStores struct{ set *stores.Set }

func (s apiStores) Stores() []api.Store {
	all := s.set.Status()
	shown := make([]api.Store, len(all))
	for i, st := range all {
		shown[i] = apiStore(st)
	}
	return shown
}

// Store returns the store of a key.
func (s apiStores) Store(key string) (api.Store, bool) {
	st, ok := s.set.Find(key)
	return apiStore(st), ok
}

func apiStore(s stores.Status) api.Store {
	return api.Store{
		Key: s.Key, Name: s.Name, Type: s.Type, Version: s.Version, Capabilities: s.Capabilities,
		MissingIsEmpty: s.MissingIsEmpty, Selectors: s.Selectors, Open: s.Open, Reason: s.Reason,
	}
}

// mountRoots returns the directories below which volumes may be mounted. Those that flags name are made; of the
// defaults, the kubelet's is used where there is one.
func mountRoots(named []string) ([]string, error) {
	roots := named
	if len(roots) == 0 {
		roots = []string{standaloneRoot}
		if _, err := os.Stat(kubeletRoot); err == nil {
			roots = append(roots, kubeletRoot)
		}
	}
	for _, r := range roots {
		if err := os.MkdirAll(r, 0o755); err != nil {
			return nil, fmt.Errorf("make target root: %w", err)
		}
	}
	return roots, nil
}
