package providers

import (
	"context"
	"log/slog"
	"time"

	"github.com/keywell/keywell/pkg/secret"
)

// Provider reads secrets from one configured store. Implementations are safe for concurrent use.
type Provider interface {
	// Fetch asks the store for one secret, now: it keeps no cache of a remote store's answers. It returns when ctx ends,
	// with an error for which errors.Is(err, ctx.Err()) holds. Every other error has a Kind (see Error). The Payload
	// belongs to the caller.
	Fetch(ctx context.Context, q Query) (Payload, error)
	// Close releases what Open took and makes further calls fail with Unavailable. Calls under way may fail too, and a
	// running Notify does. It may be called more than once.
	Close() error
}

// Lister is implemented by providers that can tell which secrets exist.
type Lister interface {
	// List returns the names of all secrets that q selects (Namespace, Metadata; its Name is empty), sorted, without
	// duplicates, each usable as Query.Name. It pages through the store by itself: a listing is whole or an error.
	List(ctx context.Context, q Query) ([]string, error)
}

// Notifier is implemented by providers that learn of changes without being asked.
type Notifier interface {
	// Notify calls changed for each secret that may have changed, until ctx ends (then it returns nil) or the source of
	// notifications breaks (then it returns why, and is called again after a pause). An empty name means that anything
	// may have changed. A change made after Notify was entered is never missed; one call may stand for several changes.
	// When changed is called, Fetch already returns the new content. changed never blocks and is not called concurrently.
	Notify(ctx context.Context, changed func(name string)) error
}

// Issuer is implemented by providers of which a read may make a new secret that has a Lease.
type Issuer interface {
	// Renew prolongs a lease that an answer to q came with, or finds out what is left of one that can't be prolonged. The
	// error is NotFound if there is no such lease any more.
	Renew(ctx context.Context, q Query, l Lease) (Lease, error)
	// Revoke ends a lease. That there is none is no error.
	Revoke(ctx context.Context, q Query, l Lease) error
}

// Query says what to fetch. Selectors that a store does not have are refused with Invalid, not ignored, because an
// ignored selector would return other bytes than were asked for.
type Query struct {
	Name      string            // secret name; empty in a listing
	Version   string            // store's version id; empty: latest
	Stage     string            // store's version stage; empty: the store's default
	Namespace string            // store-side namespace; empty: the store's default
	Metadata  map[string]string // the rest of the request metadata: key → value; answers to different metadata are kept apart
	Tokens    TokenSource       // the calling pod's own tokens; nil when the agent reads on its own behalf
	Caller    Caller            // the calling pod, where the store is read as the pod; zero elsewhere
	// Known is the Version of the content that the caller still has for this very query; empty: none. A provider that can
	// find out more cheaply than by reading the value that the version is still the same may answer with Unchanged. Any
	// provider may ignore it.
	Known string
}

// Caller is the pod on whose behalf a store that authorises pods itself is asked. It is attested; what the store grants
// depends on Tokens alone. An answer is shared by all pods of the service account, so it may depend on that, not on the
// pod, which is one of them; see Driver.PerPod for what does.
type Caller struct{ Namespace, ServiceAccount, Pod, PodUID string }

// TokenSource gives the calling pod's service-account tokens, for stores that authorise pods themselves.
type TokenSource interface {
	// Token returns a token for audience and when it expires.
	Token(ctx context.Context, audience string) (secret.Value, time.Time, error)
}

// Payload is what one fetch returned.
type Payload struct {
	Fields   map[string]secret.Value // field name → value; a single-value secret has one field, named as the secret
	Version  string                  // store's version id; empty if the store has none
	Lease    *Lease                  // non-nil for a dynamic secret
	NotAfter time.Time               // when the content ceases to be valid; zero: never
	// Unchanged says, in answer to a Query with Known, that the store's version is that one. Fields are not set; the rest
	// is as in any other answer. The store was asked, as the caller, and knows the secret.
	Unchanged bool
	// Issued says that the store made this content for this read: reading again makes other content, a certificate or a
	// dynamic credential. Whoever calls the provider keeps it, see package lease.
	Issued bool
}

// Lease is a store's promise to keep a dynamic secret valid.
type Lease struct {
	ID        string        `json:"id"`       // no secret: it grants nothing without a token
	Duration  time.Duration `json:"duration"` // from when it was asked for
	Renewable bool          `json:"renewable,omitempty"`
	// Alone is when the lease ends because what it hangs on does, if nobody prolongs that: the token to which it was given.
	// Zero: it hangs on nothing or, in an answer of Renew, as before.
	Alone time.Time `json:"alone,omitzero"`
}

// Driver describes one kind of store.
type Driver struct {
	// Type is Dapr's component type in lower case, such as "secretstores.local.file".
	Type string
	// Properties lists the metadata names that the driver understands, so that a misspelt one can be reported.
	Properties []Property
	// AnyProperties is set for drivers that take metadata names which only they know: a plugin's.
	AnyProperties bool
	// MultipleKeyValues tells, for a configuration that Open has opened, whether a secret may have several fields. Dapr's metadata
	// API reports it as the capability MULTIPLE_KEY_VALUES_PER_SECRET. Nil: never.
	MultipleKeyValues func(Config) bool
	// MissingIsEmpty is set for stores for which Dapr's API answers a secret that is missing or withheld with an empty
	// string rather than an error (local.env). Only the API does so: for a volume it is missing.
	MissingIsEmpty bool
	// Identities are the ways in which stores of this kind can be read, the default first; the metadata name "identity"
	// of a manifest chooses. Nil: AsAgent only.
	Identities []Identity
	// PerPod is set for stores whose answers, read AsPod, may depend on the pod and not on its service account alone.
	PerPod bool
	// Selectors tells which selectors of a Query the store has. The API drops the others from a request, because Dapr's
	// stores ignore them; a volume that asks for one is refused by Fetch.
	Selectors Selectors
	// Open returns a Provider for cfg, or an Error with Kind Invalid for a faulty configuration and Unavailable for a
	// store that can't be reached now. It may do I/O until ctx ends.
	Open func(ctx context.Context, cfg Config) (Provider, error)
}

// Identity says with whose rights a store is read.
type Identity string

// The identities, as manifests write them.
const (
	AsAgent Identity = "agent" // with credentials of the agent's own; answers are shared by all pods
	// AsPod: with the tokens in Query.Tokens, so that the store authorises the pod itself. Answers are kept per service
	// account, and a read that is on behalf of no pod is refused.
	AsPod Identity = "pod"
)

// Selectors are the selectors of a Query that a store has.
type Selectors struct{ Version, Stage, Namespace bool }

// Property describes one metadata name of a Component.
type Property struct {
	Name     string   // canonical spelling; names match in any case
	Aliases  []string // other accepted names
	Required bool
	Secret   bool // a value written in the manifest in plain deserves a warning
}

// Config is one store's configuration, with every reference resolved.
type Config struct {
	Name       string // store name, for logs
	Properties Properties
	Written    map[string]string // name of a property → the same as the manifest writes it, for who minds the case
	Identity   Identity          // one of the driver's Identities
	Logger     *slog.Logger      // never nil
	// ServiceAccounts tells what is written on the pods' service accounts. Nil: the agent is not given the right to know.
	ServiceAccounts ServiceAccounts
}

// ServiceAccounts reads the annotations of service accounts, by which the clouds' workload identities say which cloud
// identity a pod has.
type ServiceAccounts interface {
	// Annotations returns all annotations of a service account, as they are now. The error is NotFound, Denied if the
	// agent may not read service accounts, or Unavailable.
	Annotations(ctx context.Context, namespace, name string) (map[string]string, error)
}
