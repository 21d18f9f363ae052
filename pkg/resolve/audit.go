package resolve

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// AuditDenied records that id was refused ref, for err: a policy's error, whose rule is written, or another reason.
// Whoever refuses calls it, because a read that is refused never comes here.
func (r *Resolver) AuditDenied(ctx context.Context, origin string, id scope.Identity, ref scope.Ref, err error) {
	if !r.audits(ctx) {
		return
	}
	var a auditRecord
	a.who(origin, id, ref)
	a.text("decision", "deny")
	a.text("version", ref.Version)
	a.text("rule", rule(err))
	r.write(ctx, time.Now(), "read denied", &a)
}

// AuditBulk records that the secrets of a store, as many as said, were answered from a copy that the caller had kept
// (see Epoch). grant is the one that the listing was made with.
func (r *Resolver) AuditBulk(ctx context.Context, origin string, grant scope.Grant, secrets int) {
	if !r.audits(ctx) {
		return
	}
	var a auditRecord
	a.who(origin, grant.Identity(), grant.Ref())
	a.text("decision", "allow")
	a.text("result", "ok")
	a.add(slog.Int("secrets", secrets))
	a.add(slog.Bool("cached", true))
	r.write(ctx, time.Now(), "secrets read", &a)
}

// record counts a read and writes its audit record. in is nil if the store is not installed.
func (r *Resolver) record(ctx context.Context, msg string, in *installation, req *Request, rep reply, err error, begun time.Time) {
	if in != nil {
		in.metrics.read(rep, err)
	} else {
		r.metrics.closed.Inc()
	}
	if !r.audits(ctx) {
		return
	}
	ref := req.Grant.Ref()
	version := ref.Version
	if rep.answer != nil && rep.answer.payload.Version != "" {
		version = rep.answer.payload.Version
	}
	now := time.Now()
	var a auditRecord
	a.who(req.Origin, req.Grant.Identity(), ref)
	a.text("decision", "allow")
	a.text("result", outcome(rep, err))
	a.text("version", version)
	a.add(slog.Bool("cached", rep.cached()))
	a.add(slog.Bool("stale", rep.from == fromStale))
	a.add(slog.Duration("duration", now.Sub(begun)))
	r.write(ctx, now, msg, &a)
}

func (r *Resolver) audits(ctx context.Context) bool { return r.audit.Enabled(ctx, slog.LevelInfo) }

// write writes a record. It goes past slog.Logger, which looks up the line of code that logs: one is written for every
// read, so what it costs counts. A record that can't be written is counted and logged; the read goes on.
func (r *Resolver) write(ctx context.Context, now time.Time, msg string, a *auditRecord) {
	record := slog.NewRecord(now, slog.LevelInfo, msg, 0)
	record.AddAttrs(a.attrs[:a.n]...)
	if err := r.audit.Handle(ctx, record); err != nil {
		r.metrics.unaudited.Inc()
		if r.auditFailing.CompareAndSwap(false, true) {
			r.log.Error("audit records are being lost", "err", err)
		}
		return
	}
	if r.auditFailing.Load() {
		r.auditFailing.Store(false)
	}
}

// auditRecord collects the attributes of a record without allocating.
type auditRecord struct {
	attrs [15]slog.Attr
	n     int
}

func (a *auditRecord) add(attr slog.Attr) {
	a.attrs[a.n] = attr
	a.n++
}

// text adds a text, unless it is empty.
func (a *auditRecord) text(key, value string) {
	if value != "" {
		a.add(slog.String(key, value))
	}
}

// who adds what every record has: who asked for what, on whose behalf.
func (a *auditRecord) who(origin string, id scope.Identity, ref scope.Ref) {
	a.text("origin", origin)
	a.text("store", ref.Store)
	a.text("secret", ref.Name)
	a.text("stage", ref.Stage)
	a.text("store_namespace", ref.Namespace)
	a.text("namespace", id.Namespace)
	a.text("pod", id.Pod)
	a.text("service_account", id.ServiceAccount)
	a.text("app_id", id.AppID)
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

// rule returns why a read was refused: the policy's rule, which the error's text hides from the caller, or that text.
func rule(err error) string {
	return cmp.Or(scope.RuleOf(err), err.Error())
}
