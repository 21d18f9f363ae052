package exchange

import (
	"context"

	"github.com/keywell/keywell/pkg/providers"
)

// Token returns the pod's token for audience. A token that has expired is the pod's fault, not the store's: the error is
// Denied, so that one pod's says nothing about the store that others read from.
func Token(ctx context.Context, q providers.Query, audience string) (string, error) {
	if q.Tokens == nil {
		return "", providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens)
	}
	token, _, err := q.Tokens.Token(ctx, audience)
	switch {
	case err == nil:
		return string(token.Reveal()), nil
	case providers.KindOf(err) == providers.Unavailable && ctx.Err() == nil:
		return "", providers.Errorf(providers.Denied, "%w", err)
	default:
		return "", err
	}
}

// Annotations returns what is written on the service account of q's caller. None, if the agent is not given the right to
// know: accounts is nil.
func Annotations(ctx context.Context, accounts providers.ServiceAccounts, q providers.Query) (map[string]string, error) {
	if accounts == nil {
		return nil, nil
	}
	return accounts.Annotations(ctx, q.Caller.Namespace, q.Caller.ServiceAccount)
}

// SessionName is how a session of q's service account is called in a cloud's audit log: at most 64 letters, digits, dots and
// dashes, which every cloud takes.
func SessionName(q providers.Query) string {
	name := q.Caller.Namespace + "." + q.Caller.ServiceAccount
	return name[:min(len(name), 64)]
}

// Role says where it stands as which role of a cloud a pod reads.
type Role struct {
	Accounts   providers.ServiceAccounts
	Annotation string // of the service account
	Property   string // of the manifest, for the pods whose service account says nothing
	Default    string // what the manifest says; empty: nothing
}

// Of returns the role of q's caller, and whether its service account named it. The error is Denied if nobody did.
func (r Role) Of(ctx context.Context, q providers.Query) (role string, annotated bool, err error) {
	annotations, err := Annotations(ctx, r.Accounts, q)
	switch {
	case err != nil:
		return "", false, err
	case annotations[r.Annotation] != "":
		return annotations[r.Annotation], true, nil
	case r.Default == "":
		return "", false, Unnamed("role", r.Accounts, q, r.Annotation, r.Property)
	}
	return r.Default, false, nil
}

// Refused returns err, of an exchange, as one that is about one identity: a role that is missing is no secret that is missing, and
// what one service account asks for in a wrong way says nothing of the store. NotFound and Invalid become Denied.
func Refused(err error) error {
	if k := providers.KindOf(err); k == providers.NotFound || k == providers.Invalid {
		return providers.Errorf(providers.Denied, "%w", err)
	}
	return err
}

// Unnamed returns the error for q's caller of whom neither its service account, by annotation, nor the manifest, by property,
// says what it is in the cloud (such as a "role"). Its kind is Denied.
func Unnamed(what string, accounts providers.ServiceAccounts, q providers.Query, annotation, property string) error {
	remedy := "annotate it with " + annotation + ", or set " + property + " in the store's metadata"
	if accounts == nil {
		remedy = "set " + property + " in the store's metadata, or let the agent read service accounts for their annotation " + annotation
	}
	return providers.Errorf(providers.Denied, "no %s for service account %s/%s: %s", what, q.Caller.Namespace, q.Caller.ServiceAccount, remedy)
}
