package resolve

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// AuditDenied records that a policy refused id to read ref, for err. Whoever asked the policy calls it, because a read
// that is refused never comes here.
func (r *Resolver) AuditDenied(ctx context.Context, origin string, id scope.Identity, ref scope.Ref, err error) {
	if !r.audit.Enabled(ctx, slog.LevelInfo) {
		return
	}
	r.audit.LogAttrs(ctx, slog.LevelInfo, "read denied", append(who(origin, id, ref),
		slog.String("decision", "deny"),
		slog.String("version", ref.Version),
		slog.String("rule", rule(err)),
	)...)
}

// AuditBulk records that the secrets of a store, as many as said, were answered from a copy that the caller had kept
// (see Epoch). grant is the one that the listing was made with.
func (r *Resolver) AuditBulk(ctx context.Context, origin string, grant scope.Grant, secrets int) {
	if !r.audit.Enabled(ctx, slog.LevelInfo) {
		return
	}
	r.audit.LogAttrs(ctx, slog.LevelInfo, "secrets read", append(who(origin, grant.Identity(), grant.Ref()),
		slog.String("decision", "allow"),
		slog.String("result", "ok"),
		slog.Int("secrets", secrets),
		slog.Bool("cached", true),
	)...)
}

// record counts a read and writes its audit record. in is nil if the store is not installed.
func (r *Resolver) record(ctx context.Context, msg string, in *installation, req *Request, rep reply, err error, begun time.Time) {
	if in != nil {
		in.metrics.read(rep, err)
	}
	if !r.audit.Enabled(ctx, slog.LevelInfo) {
		return
	}
	ref := req.Grant.Ref()
	version := ref.Version
	if rep.answer != nil && rep.answer.payload.Version != "" {
		version = rep.answer.payload.Version
	}
	r.audit.LogAttrs(ctx, slog.LevelInfo, msg, append(who(req.Origin, req.Grant.Identity(), ref),
		slog.String("decision", "allow"),
		slog.String("result", outcome(rep, err)),
		slog.String("version", version),
		slog.Bool("cached", rep.cached()),
		slog.Bool("stale", rep.from == fromStale),
		slog.Duration("duration", time.Since(begun)),
	)...)
}

// outcome says how a read ended: ok, cancelled by the reader, or the kind of failure.
func outcome(rep reply, err error) string {
	switch {
	case err == nil:
		return "ok"
	case rep.from == gaveUp:
		return "cancelled"
	default:
		return providers.KindOf(err).String()
	}
}

// who returns the attributes that every record has: who asked for what, on whose behalf.
func who(origin string, id scope.Identity, ref scope.Ref) []slog.Attr {
	return append(make([]slog.Attr, 0, 15),
		slog.String("origin", origin),
		slog.String("store", ref.Store),
		slog.String("secret", ref.Name),
		slog.String("stage", ref.Stage),
		slog.String("store_namespace", ref.Namespace),
		slog.String("namespace", id.Namespace),
		slog.String("pod", id.Pod),
		slog.String("service_account", id.ServiceAccount),
		slog.String("app_id", id.AppID),
	)
}

// rule returns why a policy said no: the rule, which the error's text hides from the caller, or that text.
func rule(err error) string {
	if denied, ok := errors.AsType[*scope.DeniedError](err); ok {
		return denied.Rule
	}
	return err.Error()
}
