package main

import (
	"sync"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
)

// manifests is what files and objects of the cluster say, each as of its last change. Nothing is in force before both are
// known: one alone may lack the rule that denies what the other allows.
type manifests struct {
	sync.Mutex                      // held until a change is in force, so that changes come into force in turn
	files      *component.Manifests // nil: not known yet
	objects    *component.Manifests // likewise, and where there are none to wait for
}

// filesChanged is told the manifests of files.
func (a *agent) filesChanged(m *component.Manifests, problems []component.Problem) {
	a.manifests.Lock()
	defer a.manifests.Unlock()
	a.manifests.files = m
	if a.cluster != nil && !a.flags.kubernetes.noBuiltinStore {
		problems = append(problems, shadowed(m.Components)...)
	}
	logProblems(a.log, problems)
	a.enforce()
}

// objectsChanged is told all objects of the cluster.
func (a *agent) objectsChanged(all []component.Object) {
	a.manifests.Lock()
	defer a.manifests.Unlock()
	m, problems := a.objects.Load(all)
	a.manifests.objects = m
	if !a.flags.kubernetes.noBuiltinStore {
		problems = append(problems, shadowed(m.Components)...)
	}
	logProblems(a.log, problems)
	a.enforce()
}

// enforce puts the manifests in force: the policy first, so that no store is ever open under an older one. The caller
// holds a.manifests.
func (a *agent) enforce() {
	m := a.manifests.files
	if m == nil || a.objects != nil && a.manifests.objects == nil {
		return
	}
	if a.objects != nil {
		m = m.With(a.manifests.objects)
	}
	components := m.Components
	if a.cluster != nil && !a.flags.kubernetes.noBuiltinStore {
		components = a.flags.kubernetes.withBuiltin(components)
	}
	if len(a.flags.providers) > 0 {
		var problems []component.Problem
		components, problems = withClasses(components, m.Classes, a.cluster != nil)
		logProblems(a.log, problems)
	}
	policy, err := scope.NewPolicy(rules(m, components, a.cluster != nil))
	if err != nil {
		a.log.Error("policy kept: the new one can't be used", "err", err)
		return
	}
	a.policy.Set(policy)
	a.stores.Apply(components)
	a.watches.PolicyChanged()
	if a.volumes != nil {
		a.scheduler.Nudge(a.volumes.IDs()...)
	}
}

// podAuthorizer asks the policy in force about a pod as its annotations are now, not as they were when its volume was
// published.
type podAuthorizer struct {
	policy *scope.Live
	renew  func(scope.Identity) scope.Identity
}

// Authorize decides whether id may read ref.
func (p podAuthorizer) Authorize(id scope.Identity, ref scope.Ref) (scope.Grant, error) {
	return p.policy.Authorize(p.renew(id), ref)
}
