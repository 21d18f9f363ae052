package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/scope"
)

// explainFlags are the flags of agent explain.
type explainFlags struct {
	manifestFlags
	id         scope.Identity
	ref        scope.Ref
	closed     bool
	cluster    bool
	kubeconfig string
	pod        string
	namespaces list
}

func (e *explainFlags) register(f flags) {
	e.manifestFlags.register(f)
	f.StringVar(&e.id.Namespace, "namespace", os.Getenv("NAMESPACE"), "`namespace` of the caller")
	f.StringVar(&e.id.ServiceAccount, "service-account", "", "service `account` of the caller")
	f.StringVar(&e.id.Configuration, "configuration", "", "`name` of the Configuration object that the caller's pod names (dapr.io/config)")
	f.StringVar(&e.ref.Version, "version", "", "`version` of the secret")
	f.StringVar(&e.ref.Namespace, "secret-namespace", "", "store-side `namespace` asked for (metadata.namespace)")
	f.BoolVar(&e.closed, "closed", false, "decide as in Kubernetes, where a store is closed until a policy opens it")
	f.BoolVar(&e.cluster, "cluster", false, "as --closed, with the objects of the cluster beside the files")
	f.StringVar(&e.kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server; empty: as the pod that this runs in")
	f.StringVar(&e.pod, "pod", "", "`NAMESPACE/NAME` of a pod of the cluster that is the caller, with --cluster")
	f.Var(&e.namespaces, "component-namespace", "as of agent run: `namespace` whose Component objects are opened; may be repeated")
}

// explain prints the rule that decides for one identity, store and name. It fails if the answer is no.
func explain(ctx context.Context, args []string, out, errOut io.Writer) error {
	var e explainFlags
	f := newFlags("explain", "STORE SECRET", errOut)
	e.register(f)
	if err := f.parse(args, 2); err != nil {
		return err
	}
	e.id.AppID = e.appID
	e.ref.Store, e.ref.Name = f.Arg(0), f.Arg(1)

	manifests, problems := component.Load(e.sources())
	if e.cluster {
		objects, more, err := e.readCluster(ctx)
		if err != nil {
			return err
		}
		manifests, problems = manifests.With(objects), append(problems, more...)
	} else if e.pod != "" {
		return errors.New("--pod is looked up in the cluster: add --cluster")
	}
	for _, p := range problems {
		if p.Severity == component.Error || e.cluster && p.Severity == component.Warning {
			fmt.Fprintln(errOut, p.String())
		}
	}
	return e.decide(manifests, out)
}

// readCluster returns the objects of the cluster, and makes the pod that was named the caller.
func (e *explainFlags) readCluster(ctx context.Context) (*component.Manifests, []component.Problem, error) {
	cfg, err := kube.Config(e.kubeconfig, "keywell/"+version)
	if err != nil {
		return nil, nil, err
	}
	client, err := kube.NewClient(cfg)
	if err != nil {
		return nil, nil, err
	}
	if e.pod != "" {
		namespace, name, ok := strings.Cut(e.pod, "/")
		if !ok {
			return nil, nil, fmt.Errorf("--pod %q is not of the form NAMESPACE/NAME", e.pod)
		}
		if e.id, err = kube.ReadPod(ctx, client, namespace, name); err != nil {
			return nil, nil, err
		}
	}
	all, err := kube.ReadObjects(ctx, client)
	if err != nil {
		return nil, nil, err
	}
	m, problems := component.NewObjects(component.ObjectsOptions{
		Trusted: component.TrustNamespaces(e.namespaces), AppID: e.appID, PodName: os.Getenv("POD_NAME"),
	}).Load(all)
	return m, problems, nil
}

func (e *explainFlags) decide(manifests *component.Manifests, out io.Writer) error {
	components, closed := manifests.Components, e.closed || e.cluster
	if closed {
		components = new(kubernetesFlags).withBuiltin(components)
	}
	components, _ = withClasses(components, manifests.Classes, closed)
	policy, err := scope.NewPolicy(rules(manifests, components, closed))
	if err != nil {
		return err
	}
	decision := policy.Explain(e.id, e.ref)
	verdict := "denied"
	if decision.Allowed {
		verdict = "allowed"
	}
	fmt.Fprintf(out, "%s: %s\n", verdict, decision.Rule())
	if !decision.Allowed {
		return errFailed
	}
	return nil
}
