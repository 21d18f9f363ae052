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
