package component

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

// The kinds of Object.
const (
	KindComponent     = "Component"
	KindConfiguration = "Configuration"
	KindAccessPolicy  = "AccessPolicy"

	KindSecretProviderClass = "SecretProviderClass"
)

// Object is a manifest that the API server holds.
type Object struct {
	Kind      string // one of the kinds above
	Namespace string // empty for an AccessPolicy
	Name      string
	JSON      []byte // of the metadata it has nothing but name and namespace
}

// String returns the kind with "namespace/name", which takes the place of a file's name in positions.
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Objects turns objects of the cluster into Manifests. One goroutine uses it.
type Objects struct {
	opts  ObjectsOptions
	known map[string]*object // by Object.String
}

// ObjectsOptions configures Objects.
type ObjectsOptions struct {
	// Trusted tells whether a namespace's Components may be opened. A store is opened with the agent's own rights: its
	// files, its environment, its identity in a cloud, its place in the network. Whoever may write a Component chooses
	// what these are used for.
	Trusted func(namespace string) bool
	AppID   string // for {appID} and {namespace}
	PodName string // for {podName}
}

// object is the last known state of an Object.
type object struct {
	digest   [sha256.Size]byte
	inForce  contribution
	problems []Problem // of the version that was decoded last
}

// NewObjects returns Objects that knows none.
func NewObjects(opts ObjectsOptions) *Objects {
	return &Objects{opts: opts, known: map[string]*object{}}
}

// Load returns the manifests that all are, which must be every object that there is, each once. An object that has
// turned bad keeps what it last said.
func (o *Objects) Load(all []Object) (*Manifests, []Problem) {
	m := &Manifests{}
	var problems []Problem
	there := make(map[string]bool, len(all))
	for _, obj := range all {
		name := obj.String()
		there[name] = true
		known := o.refresh(obj)
		problems = append(problems, known.problems...)
		m.Components = append(m.Components, known.inForce.components...)
		m.PodConfigurations = append(m.PodConfigurations, known.inForce.configurations...)
		m.Policies = append(m.Policies, known.inForce.policies...)
		m.Classes = append(m.Classes, known.inForce.classes...)
		m.Faulty = append(m.Faulty, known.inForce.faulty...)
	}
	for name := range o.known {
		if !there[name] {
			delete(o.known, name)
		}
	}
	return m, problems
}

// refresh decodes obj, if its content has changed.
func (o *Objects) refresh(obj Object) *object {
	digest := sha256.Sum256(obj.JSON)
	known, seen := o.known[obj.String()]
	if seen && known.digest == digest {
		return known
	}
	if !seen {
		known = &object{}
		o.known[obj.String()] = known
	}
	known.digest = digest
	var decoded contribution
	decoded, known.problems = o.decode(obj)
	if !seen || !HasErrors(known.problems) {
		known.inForce = decoded
	}
	return known
}

func (o *Objects) decode(obj Object) (contribution, []Problem) {
	if p := o.refuse(obj); p != nil {
		return contribution{}, []Problem{*p}
	}
	var c contribution
	d := decoder{
		src:    &Sources{Namespace: obj.Namespace, AppID: o.opts.AppID, PodName: o.opts.PodName},
		file:   obj.String(),
		inAPI:  true,
		budget: maxExpanded,
	}
	d.document(obj.JSON, false, &c)
	for i := range d.problems {
		d.problems[i].Line = 0 // of JSON that is not for people
	}
	for i := range c.components {
		c.components[i].Namespace, c.components[i].Namespaced = obj.Namespace, true
		if c.components[i].SecretStore == "" {
			c.components[i].SecretStore = "kubernetes" // Dapr's default, in Kubernetes
		}
	}
	for i := range c.configurations {
		c.configurations[i].Namespace = obj.Namespace
	}
	for i := range c.classes {
		c.classes[i].Namespace = obj.Namespace
	}
	switch {
	case len(c.faulty) == 0:
	case obj.Kind == KindConfiguration:
		c.configurations = []Configuration{{Namespace: obj.Namespace, Name: obj.Name, Faulty: true, Position: Position{File: obj.String()}}}
		c.faulty = nil // it concerns nobody but the pods that name it
	default:
		c.faulty = []Position{{File: obj.String()}}
	}
	return c, d.problems
}

// refuse returns why obj is not looked into, or nil.
func (o *Objects) refuse(obj Object) *Problem {
	p := &Problem{Position: Position{File: obj.String()}, Severity: Error}
	switch {
	case obj.Kind == KindComponent && !o.opts.Trusted(obj.Namespace):
		p.Severity = Warning
		p.Field = "metadata.namespace"
		p.Message = fmt.Sprintf("a store is opened with the agent's own rights, and namespace %q is not trusted with these", obj.Namespace)
		p.Remedy = "name the namespace in --component-namespace (the chart's value objects.componentNamespaces), or have an admin define the store in a file"
	case len(obj.JSON) > maxFileSize:
		p.Message, p.Remedy = fmt.Sprintf("is larger than %d bytes", maxFileSize), "split it"
	default:
		return nil
	}
	return p
}

// TrustNamespaces returns a func for ObjectsOptions.Trusted: "*" stands for every namespace.
func TrustNamespaces(names []string) func(namespace string) bool {
	return func(namespace string) bool { return slices.Contains(names, "*") || slices.Contains(names, namespace) }
}
