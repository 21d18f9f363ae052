package scope

import (
	"fmt"
	"slices"
	"strings"
)

// Rules are the inputs of a Policy, as manifests declare them.
type Rules struct {
	Stores   []Store
	Scopes   []StoreScope
	Policies []AccessRule
	// Configurations are those that callers may have (Identity.Configuration). Of a namespace and name there is one.
	Configurations []Configuration
	// Closed is the default for stores. When false (standalone use), a store that no AccessRule names is open to every
	// caller that can see it, as in Dapr. When true (Kubernetes), a store with a namespace is open to that namespace
	// (only a deny takes that away), a store that authorises pods itself is open for the caller's own namespace likewise,
	// every other one is open to nobody, and other namespaces' secrets need a rule that names them.
	Closed bool
}

// Store is what the policy needs to know of a configured store.
type Store struct {
	Name      string
	Namespace string // the manifest's metadata.namespace; empty: not bound to one
	// Namespaced is set for an object of the cluster, whose Name is unique in its Namespace only. A caller of that
	// namespace means it by its Name, before a store of that name that is not namespaced; every caller means it by its Key.
	Namespaced bool
	AppIDs     []string // the manifest's scopes; empty: every app
	// PodAuthorized is set for a store that reads with the calling pod's own token, so that the pod's rights there decide.
	PodAuthorized bool
	Source        string // file:line of the manifest
}

// Key names the store among all: its name or, if it is namespaced, namespace/name. No name holds a slash.
func (s Store) Key() string {
	if s.Namespaced {
		return StoreKey(s.Namespace, s.Name)
	}
	return s.Name
}

// StoreKey returns the key of a namespaced store.
func StoreKey(namespace, name string) string { return namespace + "/" + name }

// Configuration limits the callers that have it. Its scopes are for the stores that these callers call by that name.
type Configuration struct {
	Namespace, Name string
	Scopes          []StoreScope
	Faulty          bool // no good version is known: callers that have it are denied everything
	Source          string
}

// StoreScope is one entry of Dapr's Configuration spec.secrets.scopes. The decision for a secret name is Dapr's
// (pkg/config/configuration.go, IsSecretAllowed):
//
//  1. Allowed is not empty: allowed if the name is in it. Denied and Default are ignored.
//  2. The name is in Denied: denied.
//  3. Otherwise allowed, unless Default is "deny" (case ignored).
//
// Names are compared exactly. A store without an entry is not limited by this layer.
type StoreScope struct {
	Store   string
	Default string // "", "allow" or "deny", in any case
	Allowed []string
	Denied  []string
	Source  string
}

// AccessRule is one rule of an AccessPolicy: subjects × stores × names. All patterns are globs in which * stands for
// any run of characters, separators included, and ? for one byte.
type AccessRule struct {
	Subjects   []Subject // any one must match; empty matches no one
	Stores     []string  // store name patterns; one with a slash is for the keys of namespaced stores
	Allow      []string  // secret name patterns granted
	Deny       []string  // secret name patterns refused; a deny in any rule wins over every allow
	Namespaces []string  // store-side namespaces granted besides the default one and the caller's own
	Source     string
}

// Subject selects callers. An empty field matches every value, and a Subject with no field set matches every caller.
type Subject struct{ Namespace, ServiceAccount, AppID string }

// Policy is a compiled, immutable set of Rules. The zero Policy knows no store. It is safe for concurrent use.
type Policy struct {
	stores         map[string]*storePolicy // key → what decides for it
	configurations map[configurationName]*configuration
	namespaced     bool // one of the stores is
	closed         bool
}

type configurationName struct{ namespace, name string }

type configuration struct {
	Configuration
	scopes map[string]*compiledScope // store name → what decides for it
}

// storePolicy is everything that concerns one store.
type storePolicy struct {
	Store
	apps  map[string]bool
	scope *compiledScope
	rules []AccessRule
}

type compiledScope struct {
	StoreScope
	allowed, denied map[string]bool
}

// NewPolicy compiles rules. It refuses what Dapr refuses (a store with two scope entries, an unknown default access)
// and two stores of one key.
func NewPolicy(rules Rules) (*Policy, error) {
	p := &Policy{
		stores: make(map[string]*storePolicy, len(rules.Stores)), configurations: map[configurationName]*configuration{}, closed: rules.Closed,
	}
	scopes, err := compileScopes(rules.Scopes)
	if err != nil {
		return nil, err
	}
	for _, s := range rules.Stores {
		key := s.Key()
		if other, ok := p.stores[key]; ok {
			return nil, fmt.Errorf("%s: store %q is already defined at %s", s.Source, key, other.Source)
		}
		p.stores[key] = &storePolicy{Store: s, apps: set(s.AppIDs), scope: scopes[s.Name], rules: rulesFor(s, rules.Policies)}
		p.namespaced = p.namespaced || s.Namespaced
	}
	for _, c := range rules.Configurations {
		scopes, err := compileScopes(c.Scopes)
		if err != nil {
			return nil, err
		}
		p.configurations[configurationName{c.Namespace, c.Name}] = &configuration{c, scopes}
	}
	return p, nil
}

// compileScopes returns what decides by the name of the store.
func compileScopes(scopes []StoreScope) (map[string]*compiledScope, error) {
	compiled := make(map[string]*compiledScope, len(scopes))
	for _, sc := range scopes {
		if first, ok := compiled[sc.Store]; ok {
			return nil, fmt.Errorf("%s: %s storeName is repeated in secrets configuration, first at %s", sc.Source, sc.Store, first.Source)
		}
		if !slices.Contains([]string{"", "allow", "deny"}, strings.ToLower(sc.Default)) {
			return nil, fmt.Errorf("%s: defaultAccess %q of store %s is neither allow nor deny", sc.Source, sc.Default, sc.Store)
		}
		compiled[sc.Store] = &compiledScope{StoreScope: sc, allowed: set(sc.Allowed), denied: set(sc.Denied)}
	}
	return compiled, nil
}

func rulesFor(s Store, all []AccessRule) []AccessRule {
	var rules []AccessRule
	for _, r := range all {
		if anyMatch(r.Stores, s.Name) || r.namesKey(s) {
			rules = append(rules, r)
		}
	}
	return rules
}

// find returns the store that a caller of a namespace means by name.
func (p *Policy) find(namespace, name string) (*storePolicy, bool) {
	if p.namespaced && namespace != "" {
		if s, ok := p.stores[StoreKey(namespace, name)]; ok {
			return s, true
		}
	}
	s, ok := p.stores[name]
	return s, ok
}

// Key returns the key of the store that id means by name, or name if there is none. Whoever means a store by its key
// gets that key, so it may be asked twice.
func (p *Policy) Key(id Identity, name string) string {
	if s, ok := p.find(id.Namespace, name); ok {
		return s.Key()
	}
	return name
}

// Authorize decides whether id may read ref. The error wraps ErrStoreNotFound or is a *DeniedError.
func (p *Policy) Authorize(id Identity, ref Ref) (Grant, error) {
	s, d := p.decide(id, ref)
	if err := d.err(ref); err != nil {
		return Grant{}, err
	}
	ref.Store = s.Key()
	return Grant{id: id, ref: ref, kind: read, asPod: d.asPod}, nil
}

// Visible reports whether id may know that store exists.
func (p *Policy) Visible(id Identity, store string) bool {
	_, d := p.visible(id, Ref{Store: store})
	return d.Allowed
}

// AuthorizeList decides whether id may learn which names exist in ref.Store (and ref.Namespace), so that each can be
// put to Authorize. The names themselves must not reach the caller before that. The error is as for Authorize.
func (p *Policy) AuthorizeList(id Identity, ref Ref) (Grant, error) {
	ref.Name = ""
	s, d := p.visible(id, ref)
	if d.Allowed {
		_, d = p.configuration(id)
	}
	if d.Allowed {
		d = s.listable(id, ref, p.closed)
	}
	if err := d.err(ref); err != nil {
		return Grant{}, err
	}
	ref.Store = s.Key()
	return Grant{id: id, ref: ref, kind: list, asPod: d.asPod}, nil
}

// AuthorizeReference decides whether the component called from may have a secretKeyRef to ref. Such a Grant lets the
// agent read on its own behalf; it gives no caller a right to read. A component without a namespace belongs to the
// admin and may refer to any store. A component with one is a tenant's: it reaches what a caller of that namespace
// would reach, app ids and Dapr scopes aside.
func (p *Policy) AuthorizeReference(from Store, ref Ref) (Grant, error) {
	s, ok := p.find(from.Namespace, ref.Store)
	if !ok {
		return Grant{}, ErrStoreNotFound
	}
	asPod := false
	if from.Namespace != "" {
		id := Identity{Namespace: from.Namespace}
		d := s.inNamespace(id, p.closed)
		if d.Allowed {
			d = s.access(id, ref, p.closed)
		}
		if err := d.err(ref); err != nil {
			return Grant{}, err
		}
		asPod = d.asPod
	}
	ref.Store = s.Key()
	return Grant{ref: ref, kind: reference, asPod: asPod}, nil
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
