package component

import (
	"slices"
	"time"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// Manifests is one state of the configuration. It is immutable once returned.
type Manifests struct {
	Components     []Component           // in the order of the sources, keys unique
	Configurations []Configuration       // in the order of the sources
	Policies       []AccessPolicy        // in the order of the sources
	Classes        []SecretProviderClass // in the order of the sources, names unique in a namespace
	// PodConfigurations are objects of the cluster: each is for the pods of its namespace that name it.
	PodConfigurations []Configuration
	// Faulty lists documents and files that may hold a policy and of which no good version is known. While there is
	// one, Rules denies every read.
	Faulty []Position
}

// Component is a Dapr Component that describes a secret store.
type Component struct {
	Name         string
	Namespace    string // metadata.namespace; empty: not bound to one
	Namespaced   bool   // an object of the cluster: its name is unique in its namespace only
	Type         string // in lower case, such as "secretstores.local.file"
	Version      string // as written; "", v0 and v1 (any case) mean the same, and there is no other
	InitTimeout  time.Duration
	IgnoreErrors bool
	Metadata     []Item   // in the order of the manifest; names differ by more than case
	SecretStore  string   // auth.secretStore: the store that every secretKeyRef reads from
	Scopes       []string // app ids that may know of the store; empty: all
	Position     Position // of the document
}

// Key names the store among all; see scope.Store.
func (c Component) Key() string {
	return scope.Store{Name: c.Name, Namespace: c.Namespace, Namespaced: c.Namespaced}.Key()
}

// Equal reports whether c and d configure the same store in the same way. Where they were written does not matter.
func (c Component) Equal(d Component) bool {
	return c.Name == d.Name && c.Namespace == d.Namespace && c.Namespaced == d.Namespaced && c.Type == d.Type && c.Version == d.Version &&
		c.InitTimeout == d.InitTimeout && c.IgnoreErrors == d.IgnoreErrors && c.SecretStore == d.SecretStore &&
		slices.Equal(c.Scopes, d.Scopes) && slices.EqualFunc(c.Metadata, d.Metadata, Item.Equal)
}

// Item is one entry of spec.metadata. Where several of its sources are given, EnvRef counts if there is no value, then
// SecretKeyRef, then Value, as in Dapr (pkg/runtime/processor/secret, ProcessResource).
type Item struct {
	Name         string
	Value        secret.Value // text as a driver gets it, template tokens replaced; may be a credential
	HasValue     bool         // a value that is not null was written, the empty string included
	SecretKeyRef *KeyRef      // nil: none
	EnvRef       string       // name of an environment variable of the agent; empty: none
	Position     Position
}

// Equal reports whether i and j are the same entry. Where they were written does not matter.
func (i Item) Equal(j Item) bool {
	sameRef := i.SecretKeyRef == j.SecretKeyRef
	if i.SecretKeyRef != nil && j.SecretKeyRef != nil {
		sameRef = *i.SecretKeyRef == *j.SecretKeyRef
	}
	return i.Name == j.Name && i.HasValue == j.HasValue && i.EnvRef == j.EnvRef && sameRef && i.Value.Equal(j.Value)
}

// KeyRef names one field of a secret in the store that auth.secretStore names.
type KeyRef struct {
	Name string // of the secret
	Key  string // of the field; never empty: Dapr's fallback to Name is applied
}

// Configuration is what Keywell uses of a Dapr Configuration.
type Configuration struct {
	Namespace string // of an object of the cluster
	Name      string // may be empty
	Scopes    []Scope
	Faulty    bool // of an object of the cluster of which no good version is known
	Position  Position
}

// Scope is one entry of spec.secrets.scopes; see scope.StoreScope for what it means.
type Scope struct {
	Store         string
	DefaultAccess string // "", "allow" or "deny", in any case
	Allowed       []string
	Denied        []string
	Position      Position
}

// AccessPolicy is Keywell's own manifest: who may read which names of which stores.
type AccessPolicy struct {
	Name     string
	Rules    []AccessRule
	Position Position
}

// AccessRule is one entry of an AccessPolicy's spec.rules; see scope.AccessRule for what it means.
type AccessRule struct {
	Subjects   []scope.Subject // at least one
	Stores     []string        // at least one
	Allow      []string
	Deny       []string
	Namespaces []string
	Position   Position
}

// With returns the manifests of m, and then those of other. Neither is changed.
func (m *Manifests) With(other *Manifests) *Manifests {
	return &Manifests{
		Components:        slices.Concat(m.Components, other.Components),
		Configurations:    slices.Concat(m.Configurations, other.Configurations),
		PodConfigurations: slices.Concat(m.PodConfigurations, other.PodConfigurations),
		Policies:          slices.Concat(m.Policies, other.Policies),
		Classes:           slices.Concat(m.Classes, other.Classes),
		Faulty:            slices.Concat(m.Faulty, other.Faulty),
	}
}

// Rules returns the inputs of a scope.Policy, each with file:line as its source. closed is scope.Rules.Closed. The
// result is always acceptable to scope.NewPolicy.
func (m *Manifests) Rules(closed bool) scope.Rules {
	rules := scope.Rules{Closed: closed, Scopes: merged(m.Configurations)}
	for _, c := range m.Components {
		rules.Stores = append(rules.Stores, scope.Store{
			Name: c.Name, Namespace: c.Namespace, Namespaced: c.Namespaced, AppIDs: c.Scopes, Source: c.Position.String(),
		})
	}
	for _, p := range m.Policies {
		for _, r := range p.Rules {
			rules.Policies = append(rules.Policies, scope.AccessRule{
				Subjects: r.Subjects, Stores: r.Stores, Allow: r.Allow, Deny: r.Deny, Namespaces: r.Namespaces,
				Source: r.Position.String(),
			})
		}
	}
	for _, c := range m.PodConfigurations {
		rules.Configurations = append(rules.Configurations, scope.Configuration{
			Namespace: c.Namespace, Name: c.Name, Faulty: c.Faulty, Scopes: merged([]Configuration{c}), Source: c.Position.String(),
		})
	}
	for _, pos := range m.Faulty {
		rules.Policies = append(rules.Policies, scope.AccessRule{
			Subjects: []scope.Subject{{}}, Stores: []string{"*"}, Deny: []string{"*"},
			Source: pos.String() + ": faulty, may hold a policy",
		})
	}
	return rules
}

// merged returns the scopes of several Configurations: the last entry for a store counts.
func merged(configurations []Configuration) []scope.StoreScope {
	var all []scope.StoreScope
	at := map[string]int{} // store → index in all
	for _, c := range configurations {
		for _, s := range c.Scopes {
			entry := scope.StoreScope{
				Store: s.Store, Default: s.DefaultAccess, Allowed: s.Allowed, Denied: s.Denied, Source: s.Position.String(),
			}
			if i, ok := at[s.Store]; ok {
				all[i] = entry
				continue
			}
			at[s.Store] = len(all)
			all = append(all, entry)
		}
	}
	return all
}
