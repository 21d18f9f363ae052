package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/origin"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

// kubernetesFlags are the flags of agent run that only matter on a node of Kubernetes.
type kubernetesFlags struct {
	enabled        bool
	kubeconfig     string
	node           string
	registry       string
	audience       string
	noBuiltinStore bool
	annotations    bool
	requestTokens  bool
	objects        bool
	classes        bool // SecretProviderClass objects are read
	namespaces     list
	audiences      list
	runtime        string
	localhost      localhost.Default
}

func (k *kubernetesFlags) register(f flags) {
	f.BoolVar(&k.enabled, "kubernetes", false, "serve the pods of this node; every store is closed until a policy opens it")
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server; empty: as the agent's own pod")
	f.StringVar(&k.node, "node-name", os.Getenv("NODE_NAME"), "`name` of this node in Kubernetes")
	f.StringVar(&k.registry, "plugin-registry", "/var/lib/kubelet/plugins_registry", "the kubelet's plugin `directory`; empty: do not register")
	f.StringVar(&k.audience, "token-audience", kube.DefaultAudience, "`audience` of the tokens by which pods call the API")
	f.StringVar(&k.runtime, "container-runtime", "", "`path` of the container runtime's socket, by which the agent finds pods' network namespaces; empty: no API on the localhost of pods")
	k.localhost = localhost.Asked
	f.Func("localhost", "`which` pods have the API on localhost: asked (those that ask for it) or all (default "+string(localhost.Asked)+")", func(s string) (err error) {
		k.localhost, err = localhost.ParseDefault(s)
		return err
	})
	f.BoolVar(&k.noBuiltinStore, "disable-builtin-kubernetes-secret-store", false, "leave out the store kubernetes, which reads Secrets with the pod's own token")
	f.BoolVar(&k.requestTokens, "request-tokens", false, "make tokens of pods' service accounts for pods to which the kubelet brings none: those that call the API and have no volume")
	f.BoolVar(&k.objects, "cluster-objects", false, "read Component, Configuration and AccessPolicy objects of the cluster, beside files")
	f.Var(&k.namespaces, "component-namespace", "`namespace` whose Component objects are opened, with the agent's own rights; *: every one; may be repeated")
	f.Var(&k.audiences, "provider-token-audience", "`audience` of the pod's tokens that providers of the Secrets Store CSI driver are given; may be repeated; none: they get no tokens")
	f.BoolVar(&k.annotations, "service-account-annotations", false, "read the annotations of pods' service accounts, where they name a role or identity in a cloud")
}

// cluster is the parts that a node of Kubernetes adds.
type cluster struct {
	pods      *kube.Pods
	objects   *kube.Objects // nil: none are read
	reviewer  *kube.TokenReviewer
	events    *kube.Events
	registrar *kube.Registrar           // nil: the kubelet is not told
	accounts  providers.ServiceAccounts // nil: they are not to be read
	tokens    *kube.TokenRequester      // nil: tokens are not to be made
}

// newCluster makes the parts. changed is called when anything of any pod may have changed; it must not block. objects is
// called with all objects of the cluster that are manifests.
func newCluster(k kubernetesFlags, csiSocket string, changed func(), objects func([]component.Object), log *slog.Logger, registry prometheus.Registerer) (*cluster, error) {
	cfg, err := kube.Config(k.kubeconfig, "keywell/"+version)
	if err != nil {
		return nil, err
	}
	client, err := kube.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	c := &cluster{}
	if k.annotations {
		c.accounts = kube.NewServiceAccounts(client)
	}
	if c.pods, err = kube.NewPods(kube.PodsOptions{Client: client, Node: k.node, Changed: changed, Logger: log, Registerer: registry}); err != nil {
		return nil, err
	}
	if k.requestTokens {
		if c.tokens, err = kube.NewTokenRequester(client, c.pods); err != nil {
			return nil, err
		}
	}
	if k.objects || k.classes {
		if c.objects, err = kube.NewObjects(kube.ObjectsOptions{Client: client, Manifests: k.objects, Classes: k.classes, OnChange: objects, Logger: log, Registerer: registry}); err != nil {
			return nil, err
		}
	}
	if c.reviewer, err = kube.NewTokenReviewer(kube.ReviewerOptions{Client: client, Pods: c.pods, Audience: k.audience, Registerer: registry}); err != nil {
		return nil, err
	}
	if c.events, err = kube.NewEvents(kube.EventsOptions{Client: client, Node: k.node, Logger: log, Registerer: registry}); err != nil {
		return nil, err
	}
	if k.registry == "" || csiSocket == "" {
		return c, nil
	}
	c.registrar, err = kube.NewRegistrar(kube.RegistrarOptions{
		Name: csi.DefaultName, Socket: csiSocket, Directory: k.registry, Logger: log, Registerer: registry,
	})
	return c, err
}

// run keeps everything up to date until ctx ends.
func (c *cluster) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.pods.Run(ctx) })
	group.Go(func() error { return c.events.Run(ctx) })
	if c.objects != nil {
		group.Go(func() error { return c.objects.Run(ctx) })
	}
	if c.registrar != nil {
		group.Go(func() error { return c.registrar.Run(ctx) })
	}
	return group.Wait()
}

// identify returns the identity of the pod that the kubelet publishes a volume for.
func (c *cluster) identify(volumeContext map[string]string) (scope.Identity, error) {
	id, err := identity.FromVolumeContext(volumeContext)
	if err != nil {
		return scope.Identity{}, err
	}
	return c.pods.Known(id)
}

// attest returns the identity of the pod that calls the API: whose socket it calls by or, on the node's address, whose
// service-account token it sends.
func (c *cluster) attest(ctx context.Context, e api.Evidence) (scope.Identity, error) {
	from, ok := e.Peer.(*origin.Addr)
	switch {
	case !ok:
		return c.reviewer.Attest(ctx, e.Token)
	case from.Way == origin.Socket:
		return c.pods.Renew(from.Identity), nil // the kubelet has said who it is, when it published the volume
	default:
		return c.pods.Identify(from.Identity.PodUID)
	}
}

// notReady names the parts that can't serve yet.
func (c *cluster) notReady() []string {
	var parts []string
	select {
	case <-c.pods.Ready():
	default:
		parts = append(parts, "pods")
	}
	if c.objects != nil {
		select {
		case <-c.objects.Ready():
		default:
			parts = append(parts, "objects of the cluster")
		}
	}
	if c.registrar != nil && !c.registrar.Registered() {
		parts = append(parts, "registration with the kubelet")
	}
	return parts
}

// tell shows the owner of a pod what a rotation of its volume did, unless it did nothing.
func (c *cluster) tell(o volume.Outcome, err error) {
	if errors.Is(err, providers.ErrBadToken) && !c.stays(o.Identity.PodUID) {
		return // a pod's token ends with it, and its volume a little later
	}
	if err != nil {
		c.events.Emit(kube.Event{Pod: o.Identity, Reason: reason(err), Message: "files are kept as they are: " + err.Error()})
	}
	if o.Stale != "" {
		c.events.Emit(kube.Event{Pod: o.Identity, Reason: kube.StoreDown, Message: "files may be out of date: " + o.Stale})
	}
	if o.Changed {
		c.events.Emit(kube.Event{Pod: o.Identity, Reason: kube.Rotated, Message: "files were rewritten: a secret has changed"})
	}
}

// refuse tells the owner of a pod that it can't have the API on localhost.
func (c *cluster) refuse(r localhost.Refusal) {
	c.events.Emit(kube.Event{Pod: r.Pod, Reason: kube.NoLocalhost, Message: "no secrets API on localhost: " + r.Message})
}

// stays tells whether a pod is there and nobody has deleted it.
func (c *cluster) stays(podUID string) bool {
	pod, known := c.pods.Get(podUID)
	return known && !pod.Deleting
}

// reason classifies why a volume could not be rotated.
func reason(err error) kube.Reason {
	if _, denied := errors.AsType[*scope.DeniedError](err); denied || errors.Is(err, scope.ErrStoreNotFound) {
		return kube.Denied
	}
	switch providers.KindOf(err) {
	case providers.NotFound:
		return kube.Missing
	case providers.Denied:
		return kube.Denied
	case providers.Unavailable, providers.Throttled, providers.Unknown:
		return kube.StoreDown
	default:
		return kube.Invalid
	}
}

// builtinName is the name of the store that every cluster has: Secrets, read with the pod's own token.
const builtinName = "kubernetes"

// withBuiltin adds the built-in store. As in Dapr, it wins over a manifest of its name.
func (k *kubernetesFlags) withBuiltin(components []component.Component) []component.Component {
	builtIn := component.Component{
		Name: builtinName, Type: "secretstores.kubernetes", Version: "v1", InitTimeout: 5 * time.Second,
		Position: component.Position{File: "built in"},
	}
	if k.kubeconfig != "" {
		builtIn.Metadata = []component.Item{{Name: "kubeconfigPath", Value: secret.FromString(k.kubeconfig), HasValue: true, Position: builtIn.Position}}
	}
	all := []component.Component{builtIn}
	for _, c := range components {
		if c.Name != builtinName {
			all = append(all, c)
		}
	}
	return all
}

// shadowed returns the problem of a manifest that the built-in store takes the place of, if there is one.
func shadowed(components []component.Component) []component.Problem {
	i := slices.IndexFunc(components, func(c component.Component) bool { return c.Name == builtinName })
	if i < 0 {
		return nil
	}
	return []component.Problem{{
		Position: components[i].Position, Severity: component.Error, Field: "metadata.name",
		Message: fmt.Sprintf("%q is the name of the built-in store", builtinName),
		Remedy:  "choose another name, or turn the built-in store off with --disable-builtin-kubernetes-secret-store",
	}}
}
