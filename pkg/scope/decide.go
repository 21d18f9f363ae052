package scope

import (
	"fmt"
	"slices"
	"strings"
)

// Decision is the outcome for one Identity and Ref, with the one rule that made it. It is built on every read, so the
// sentence is put together only when somebody asks for it.
type Decision struct {
	Allowed bool

	hidden bool // denied in a way that hides the store
	told   bool // denied because of what the caller wrote
	asPod  bool // allowed because the store decides about the pod itself
	format string
	args   [3]string
}

// Rule returns the rule that decided, in one sentence that starts with the file and line it came from, where it came
// from a file.
func (d Decision) Rule() string {
	args := make([]any, strings.Count(d.format, "%"))
	for i := range args {
		args[i] = d.args[i]
	}
	return fmt.Sprintf(d.format, args...)
}

func (d Decision) err(ref Ref) error {
	switch {
	case d.Allowed:
		return nil
	case d.hidden:
		return &hiddenError{rule: d.Rule()}
	case d.told:
		return &DeniedError{Ref: ref, Rule: d.Rule(), told: d.Rule()}
	default:
		return &DeniedError{Ref: ref, Rule: d.Rule()}
	}
}

func allow(format, a, b string) Decision {
	return Decision{Allowed: true, format: format, args: [3]string{a, b}}
}

func deny(format, a, b, c string) Decision {
	return Decision{format: format, args: [3]string{a, b, c}}
}

func hide(format, a, b, c string) Decision {
	return Decision{hidden: true, format: format, args: [3]string{a, b, c}}
}

// pass lets the next layer decide.
var pass = Decision{Allowed: true}

// Explain returns the decision that Authorize takes for id and ref, with the rule that makes it.
func (p *Policy) Explain(id Identity, ref Ref) Decision {
	_, d := p.decide(id, ref)
	return d
}

// decide returns the store too, which is nil if there is none.
func (p *Policy) decide(id Identity, ref Ref) (*storePolicy, Decision) {
	s, d := p.visible(id, ref)
	if d.Allowed {
		d = p.scoped(id, s, ref.Name)
	}
	if d.Allowed {
		d = s.access(id, ref, p.closed)
	}
	return s, d
}

// visible is the first layer: whether id may know of the store.
func (p *Policy) visible(id Identity, ref Ref) (*storePolicy, Decision) {
	s, ok := p.find(id.Namespace, ref.Store)
	if !ok {
		return nil, hide("no component defines a store %q", ref.Store, "", "")
	}
	if len(s.apps) > 0 && !s.apps[id.AppID] {
		return s, hide("%s: the scopes of store %q do not list app id %q", s.Source, s.Name, id.AppID)
	}
	return s, s.inNamespace(id, p.closed)
}

// inNamespace tells whether a store that is bound to a namespace serves id. A rule may open it to another namespace.
func (s *storePolicy) inNamespace(id Identity, closed bool) Decision {
	if !closed || s.Namespace == "" || s.Namespace == id.Namespace || s.ruleFor(id) != nil {
		return pass
	}
	return hide("%s: store %q serves namespace %q only, and no AccessPolicy opens it to the caller's", s.Source, s.Name, s.Namespace)
}

// ruleFor returns a rule that has id as a subject and allows something, or nil.
func (s *storePolicy) ruleFor(id Identity) *AccessRule {
	for i, r := range s.rules {
		if len(r.Allow) > 0 && r.selects(id) && s.openedBy(&r, id) {
			return &s.rules[i]
		}
	}
	return nil
}

// openedBy tells whether what r allows can be for id. A namespaced store is some namespace's own, and whoever wrote r may
// not know of it: for callers of other namespaces, r has to name that namespace.
func (s *storePolicy) openedBy(r *AccessRule, id Identity) bool {
	return !s.Namespaced || s.Namespace == id.Namespace || r.namesKey(s.Store)
}

// namesKey tells whether the rule means s by its namespace too.
func (r *AccessRule) namesKey(s Store) bool {
	return s.Namespaced && slices.ContainsFunc(r.Stores, func(pattern string) bool {
		return strings.Contains(pattern, "/") && glob(pattern, s.Key())
	})
}

// scoped is the second layer: the scopes for everyone, and those of the caller's Configuration.
func (p *Policy) scoped(id Identity, s *storePolicy, name string) Decision {
	if d := s.scope.decide(s.Name, name); !d.Allowed {
		return d
	}
	own, d := p.configuration(id)
	if !d.Allowed || own == nil {
		return d
	}
	return own.scopes[s.Name].decide(s.Name, name)
}

// configuration returns the caller's Configuration, nil if it has none. Without its scopes, more might be readable than
// they allow, so a caller whose Configuration is not to be had is denied everything.
func (p *Policy) configuration(id Identity) (*configuration, Decision) {
	if id.Configuration == "" {
		return nil, pass
	}
	switch c, ok := p.configurations[configurationName{id.Namespace, id.Configuration}]; {
	case !ok:
		d := deny("the pod is annotated dapr.io/config: %q, and namespace %q has no such Configuration", id.Configuration, id.Namespace, "")
		d.told = true
		return nil, d
	case c.Faulty:
		d := deny("%s: faulty, and the pod is annotated dapr.io/config: %q", c.Source, id.Configuration, "")
		d.told = true
		return nil, d
	default:
		return c, pass
	}
}

// decide is Dapr's decision table. Nil passes everything.
func (c *compiledScope) decide(store, name string) Decision {
	switch {
	case c == nil:
		return pass
	case len(c.allowed) > 0 && c.allowed[name]:
		return pass
	case len(c.allowed) > 0:
		return deny("%s: allowedSecrets of store %q does not list %q", c.Source, store, name)
	case c.denied[name]:
		return deny("%s: deniedSecrets of store %q lists %q", c.Source, store, name)
	case strings.EqualFold(c.Default, "deny"):
		return deny("%s: defaultAccess of store %q is deny", c.Source, store, "")
	default:
		return pass
	}
}

// access is the third layer: AccessPolicy, where a deny wins and, unless the store is open to id, an allow is needed.
func (s *storePolicy) access(id Identity, ref Ref, closed bool) Decision {
	var granted *AccessRule
	for i, r := range s.rules {
		if !r.selects(id) {
			continue
		}
		if pattern, ok := match(r.Deny, ref.Name); ok {
			return deny("%s: deny %q", r.Source, pattern, "")
		}
		if granted == nil && anyMatch(r.Allow, ref.Name) && r.reaches(id, ref.Namespace, closed) && s.openedBy(&r, id) {
			granted = &s.rules[i]
		}
	}
	if granted != nil {
		pattern, _ := match(granted.Allow, ref.Name)
		return allow("%s: allow %q", granted.Source, pattern)
	}
	return s.open(id, ref, closed)
}

// open decides where no rule allows or denies.
func (s *storePolicy) open(id Identity, ref Ref, closed bool) Decision {
	switch {
	case !closed && len(s.rules) == 0:
		return allow("%s: no AccessPolicy names store %q, which is open by default", s.Source, s.Name)
	case closed && s.Namespace != "" && s.Namespace == id.Namespace && ownNamespace(id, ref.Namespace):
		return allow("%s: store %q belongs to the caller's namespace", s.Source, s.Name)
	case closed && s.PodAuthorized && id.Namespace != "" && ownNamespace(id, ref.Namespace):
		d := allow("%s: store %q reads the caller's namespace with the pod's own token", s.Source, s.Name)
		d.asPod = true
		return d
	case len(s.rules) == 0:
		return deny("no AccessPolicy grants store %q", s.Name, "", "")
	default:
		return deny("no AccessPolicy rule of store %q allows %q to this caller", s.Name, ref.Name, "")
	}
}

// listable decides whether any name could be allowed, so that a caller with no right at all costs no listing.
func (s *storePolicy) listable(id Identity, ref Ref, closed bool) Decision {
	if d := s.open(id, ref, closed); d.Allowed {
		return d
	}
	for _, r := range s.rules {
		if len(r.Allow) > 0 && r.selects(id) && r.reaches(id, ref.Namespace, closed) && s.openedBy(&r, id) {
			return allow("%s: allow %q", r.Source, r.Allow[0])
		}
	}
	return deny("no AccessPolicy rule of store %q allows anything to this caller", s.Name, "", "")
}

// reaches tells whether the rule covers the store-side namespace that is asked for.
func (r *AccessRule) reaches(id Identity, namespace string, closed bool) bool {
	return (!closed && len(r.Namespaces) == 0) || ownNamespace(id, namespace) || anyMatch(r.Namespaces, namespace)
}

func ownNamespace(id Identity, namespace string) bool {
	return namespace == "" || namespace == id.Namespace
}

func (r *AccessRule) selects(id Identity) bool {
	return slices.ContainsFunc(r.Subjects, func(s Subject) bool {
		return matchField(s.Namespace, id.Namespace) && matchField(s.ServiceAccount, id.ServiceAccount) && matchField(s.AppID, id.AppID)
	})
}

func matchField(pattern, value string) bool { return pattern == "" || glob(pattern, value) }

func anyMatch(patterns []string, s string) bool {
	_, ok := match(patterns, s)
	return ok
}

// match returns the first pattern that matches s.
func match(patterns []string, s string) (string, bool) {
	for _, p := range patterns {
		if glob(p, s) {
			return p, true
		}
	}
	return "", false
}

// glob reports whether s matches pattern, in which * is any run of bytes and ? any one. It takes time linear in
// len(pattern) × len(s) at worst: on a mismatch it goes back to the last star only.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
