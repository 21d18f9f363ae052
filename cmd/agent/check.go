package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers/builtin"
	"github.com/keywell/keywell/pkg/providers/daprplugin"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/stores"
)

// sources turns the flags into where manifests are read from. Without any flag it is the directory that the agent
// itself reads by default.
func (m *manifestFlags) sources() component.Sources {
	s := component.Sources{
		Directories: m.resources,
		Files:       m.configs,
		Namespace:   os.Getenv("NAMESPACE"),
		AppID:       m.appID,
		PodName:     os.Getenv("POD_NAME"),
		LookupEnv:   os.LookupEnv,
	}
	if len(s.Directories) == 0 {
		s.Directories = []string{defaultResources}
	}
	return s
}

// check validates manifests without opening a store. It prints what it finds by file and line, and fails if any of it is
// an error.
func check(_ context.Context, args []string, out, errOut io.Writer) error {
	var m manifestFlags
	f := newFlags("check", "", errOut)
	m.register(f)
	if err := f.parse(args, 0); err != nil {
		return err
	}
	manifests, problems := component.Load(m.sources())
	drivers := builtin.Drivers()
	if m.plugins != "" {
		drivers = append(drivers, daprplugin.New(m.plugins).Drivers()...)
	}
	problems = append(problems, stores.Check(manifests.Components, drivers)...)
	slices.SortStableFunc(problems, func(a, b component.Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	for _, p := range problems {
		fmt.Fprintln(out, p.String())
	}
	fmt.Fprintf(out, "%d stores, %d configurations, %d access policies, %d findings\n",
		len(manifests.Components), len(manifests.Configurations), len(manifests.Policies), len(problems))
	if component.HasErrors(problems) {
		return errFailed
	}
	return nil
}

// explain prints the rule that decides for one identity, store and name. It fails if the answer is no.
func explain(_ context.Context, args []string, out, errOut io.Writer) error {
	var (
		m      manifestFlags
		id     = scope.Identity{}
		ref    = scope.Ref{}
		closed bool
	)
	f := newFlags("explain", "STORE SECRET", errOut)
	m.register(f)
	f.StringVar(&id.Namespace, "namespace", os.Getenv("NAMESPACE"), "`namespace` of the caller")
	f.StringVar(&id.ServiceAccount, "service-account", "", "service `account` of the caller")
	f.StringVar(&ref.Version, "version", "", "`version` of the secret")
	f.StringVar(&ref.Namespace, "secret-namespace", "", "store-side `namespace` asked for (metadata.namespace)")
	f.BoolVar(&closed, "closed", false, "decide as in Kubernetes, where a store is closed until a policy opens it")
	if err := f.parse(args, 2); err != nil {
		return err
	}
	id.AppID = m.appID
	ref.Store, ref.Name = f.Arg(0), f.Arg(1)

	manifests, problems := component.Load(m.sources())
	for _, p := range problems {
		if p.Severity == component.Error {
			fmt.Fprintln(errOut, p.String())
		}
	}
	components := manifests.Components
	if closed {
		components = new(kubernetesFlags).withBuiltin(components)
	}
	policy, err := scope.NewPolicy(rules(manifests, components, closed))
	if err != nil {
		return err
	}
	decision := policy.Explain(id, ref)
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

// rules returns the inputs of the policy for manifests whose components are replaced. Where stores are closed, one that
// is read with the pod's own tokens leaves the decision to the pod's rights.
func rules(m *component.Manifests, components []component.Component, closed bool) scope.Rules {
	wanted := *m
	wanted.Components = components
	rules := wanted.Rules(closed)
	drivers := builtin.Drivers()
	for i, c := range components {
		rules.Stores[i].PodAuthorized = stores.PodAuthorized(c, drivers)
	}
	return rules
}

// checkSources refuses a path that was named on the command line and does not exist: a typing error would otherwise
// look like an empty configuration. Later the paths may come and go.
func checkSources(m *manifestFlags) error {
	var missing []error
	for _, path := range append(append(list(nil), m.resources...), m.configs...) {
		if _, err := os.Stat(filepath.Clean(path)); err != nil {
			missing = append(missing, err)
		}
	}
	return errors.Join(missing...)
}
