package scope

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// Identity says who asks. It comes from an attester, never from what the caller says of itself. A field that the
// evidence does not prove is empty.
type Identity struct {
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	Pod            string `json:"pod,omitempty"`
	PodUID         string `json:"podUID,omitempty"`
	AppID          string `json:"appID,omitempty"` // Dapr app id
	// Configuration is the Dapr Configuration of Namespace whose scopes limit the caller besides those for everyone.
	Configuration string `json:"configuration,omitempty"`
}

// Ref names what is asked for: every selector that changes which bytes come back is a field, so that no selector can
// walk around a policy. Refs are comparable and serve as cache keys.
type Ref struct {
	Store     string `json:"store"`               // the store as its caller calls it; in a Grant, the store's key
	Name      string `json:"name"`                // secret name; empty in a listing
	Version   string `json:"version,omitempty"`   // store's version id; empty means latest
	Stage     string `json:"stage,omitempty"`     // store's version stage, such as AWSPREVIOUS
	Namespace string `json:"namespace,omitempty"` // store-side namespace asked for (metadata.namespace)
}

// Grant proves that a Policy allowed an Identity to read a Ref, or to list a store. The zero Grant allows nothing.
type Grant struct {
	id    Identity
	ref   Ref
	kind  grantKind
	asPod bool
}

type grantKind uint8

const (
	none grantKind = iota
	read
	list
	reference
)

// Identity returns who may read. It is empty for a reference.
func (g Grant) Identity() Identity { return g.id }

// Ref returns what may be read; its Store is the store's key, and its Name is empty when g allows a listing.
func (g Grant) Ref() Ref { return g.ref }

// Reads reports whether g allows the Ref to be read.
func (g Grant) Reads() bool { return g.kind == read || g.kind == reference }

// Lists reports whether g allows the names in the store to be listed.
func (g Grant) Lists() bool { return g.kind == list }

// IsReference reports whether g was made for a secretKeyRef of a component, on the agent's own behalf.
func (g Grant) IsReference() bool { return g.kind == reference }

// AsPod reports whether g was given only because the store itself decides about the pod (Store.PodAuthorized). It is
// no right to an answer that the store gives to anyone else.
func (g Grant) AsPod() bool { return g.asPod }

// ErrStoreNotFound is returned, perhaps wrapped, for a store that does not exist or that the caller must not know of.
var ErrStoreNotFound = errors.New("store not found")

// hiddenError is ErrStoreNotFound with the rule that hides the store, which is for the audit trail.
type hiddenError struct{ rule string }

func (e *hiddenError) Error() string { return ErrStoreNotFound.Error() }

func (e *hiddenError) Unwrap() error { return ErrStoreNotFound }

// RuleOf returns the rule, with its source, because of which a Policy returned err. It is for the audit trail and for
// admins, not for the caller. It is empty if err came from elsewhere.
func RuleOf(err error) string {
	if e, ok := errors.AsType[*DeniedError](err); ok {
		return e.Rule
	}
	if e, ok := errors.AsType[*hiddenError](err); ok {
		return e.rule
	}
	return ""
}

// DeniedError is returned when a rule forbids a read, or when none allows it.
type DeniedError struct {
	Ref  Ref
	Rule string // the rule that decided, with its source

	told string // what the caller may know too; empty: nothing
}

// Error returns Dapr's text for a denied secret. The rule is for the audit trail and for admins, unless it is about what
// the caller itself wrote.
func (e *DeniedError) Error() string {
	text := fmt.Sprintf("access denied by policy to get %q from %q", e.Ref.Name, e.Ref.Store)
	if e.told != "" {
		text += ": " + e.told
	}
	return text
}

// Live holds the policy in force. Readers see one whole policy or the next, never a mixture. The zero Live denies
// everything. It is safe for concurrent use.
type Live struct{ policy atomic.Pointer[Policy] }

// Set puts p in force.
func (l *Live) Set(p *Policy) { l.policy.Store(p) }

// Policy returns the policy in force; it is never nil. Two calls return the same pointer until Set is called, so the
// pointer tells whether a decision is still good.
func (l *Live) Policy() *Policy {
	if p := l.policy.Load(); p != nil {
		return p
	}
	return &denyAll
}

var denyAll Policy

// Authorize asks the policy in force.
func (l *Live) Authorize(id Identity, ref Ref) (Grant, error) { return l.Policy().Authorize(id, ref) }

// AuthorizeList asks the policy in force.
func (l *Live) AuthorizeList(id Identity, ref Ref) (Grant, error) {
	return l.Policy().AuthorizeList(id, ref)
}
