package api

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// Options configures a Server. Policy, Resolver, Audit, Stores and Watches are required.
type Options struct {
	// AppID is the Dapr app id that health and metadata report for a caller without one, and the app id of every caller
	// if Attest is nil.
	AppID string
	// Version is reported as Dapr's runtime version.
	Version string
	// Policy gives the policy in force. Two calls return the same pointer until the policy changes.
	Policy   interface{ Policy() *scope.Policy }
	Resolver Resolver
	Audit    Auditor
	Stores   Stores
	Watches  Watches
	// Attest derives the caller's identity from evidence. Its error is never shown to the caller, who is told that the
	// API token is wrong. It is called for each request. Nil: every caller is the app AppID.
	Attest func(ctx context.Context, e Evidence) (scope.Identity, error)
	// Tokens returns the service-account tokens of a caller, for stores that are read as the caller. Nil: no caller has any.
	Tokens func(scope.Identity) providers.TokenSource
	// Token must be presented by every caller as dapr-api-token, before Attest is asked. Empty: none is needed.
	Token secret.Value
	// Ready returns the names of the parts that are not ready to serve. Nil: always ready.
	Ready func() []string
	// MaxBodyBytes limits a request's body and, over gRPC, an answer. Default 4 MiB, as in Dapr.
	MaxBodyBytes int
	// ReadBufferBytes limits the headers of an HTTP request; those of a gRPC call may be 1024 times as large. Default
	// 4 KiB, as in Dapr.
	ReadBufferBytes int
	Logger          *slog.Logger          // nil: discard
	Registerer      prometheus.Registerer // nil: no metrics
}

// Resolver is what the API needs of resolve.Resolver.
type Resolver interface {
	Resolve(ctx context.Context, req resolve.Request) (resolve.Result, error)
	List(ctx context.Context, req resolve.Request) (resolve.Listing, error)
	// Epoch changes whenever an answer of the store may differ from what it was.
	Epoch(store string) uint64
}

// Auditor records what passes the resolver by; resolve.Resolver is one.
type Auditor interface {
	// AuditDenied records a read that was refused: by the policy, or because the store is not in service.
	AuditDenied(ctx context.Context, origin string, id scope.Identity, ref scope.Ref, err error)
	// AuditBulk records that an earlier answer, with so many secrets, was given again.
	AuditBulk(ctx context.Context, origin string, list scope.Grant, secrets int)
}

// Stores tells which stores are configured. It is called for each request and must be quick. It is safe for concurrent
// use.
type Stores interface {
	// Store returns the store of a key.
	Store(key string) (Store, bool)
	// Stores returns all stores, sorted by key.
	Stores() []Store
}

// Store is what the API needs to know of a configured store.
type Store struct {
	Key          string // names the store in the policy and the resolver
	Name         string // names it for callers of its namespace
	Type         string // Dapr's component type
	Version      string
	Capabilities []string // as Dapr's metadata API reports them
	// MissingIsEmpty and Selectors are those of the store's providers.Driver.
	MissingIsEmpty bool
	Selectors      providers.Selectors
	Open           bool
	Reason         string // why the store is not open; shown to callers that may know of it
}

// Evidence is what is known of a caller before it is attested.
type Evidence struct {
	// Token is the value of dapr-api-token, unchecked if Options.Token is empty. Empty: none was sent.
	Token secret.Value
	// Peer is the remote address of the connection. A listener that knows more about who connects (a socket inside one
	// pod's volume, a listener inside one pod's network namespace) says so by accepting connections whose RemoteAddr is
	// of a type of its own. Nil where the HTTP handler runs under a foreign server.
	Peer net.Addr
}
