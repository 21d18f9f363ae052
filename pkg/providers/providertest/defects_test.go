package providertest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

// defect is a provider with one thing wrong, and the case of the suite that must notice. The functions replace a
// method of Memory's provider; nil leaves it.
type defect struct {
	name    string
	caught  string
	fetch   func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error)
	list    func(ctx context.Context, p *broken, q providers.Query) ([]string, error)
	notify  func(ctx context.Context, p *broken, changed func(string)) error
	close   func(p *broken) error
	harness func(h *providertest.Harness)
}

func defects() []defect {
	return slices.Concat(fetchDefects(), selectorDefects(), listDefects(), lifetimeDefects(), notifyDefects())
}

func fetchDefects() []defect {
	return []defect{
		{name: "caches", caught: "fetch/replaced", fetch: fetchOnce},
		{name: "caches missing secrets", caught: "fetch/deleted", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			payload, err := p.MemoryProvider.Fetch(ctx, q)
			if last := p.last(); providers.KindOf(err) == providers.NotFound && hasField(last, q.Name) {
				return last, nil
			}
			p.keep(payload)
			return payload, err
		}},
		{name: "shares payloads", caught: "fetch/payload_is_owned", fetch: fetchOnce},
		{name: "drops fields", caught: "fetch/fields", fetch: editPayload(func(payload *providers.Payload) {
			delete(payload.Fields, "note")
		})},
		{name: "trims values", caught: "fetch/exact_bytes", fetch: editValues(strings.TrimSpace)},
		{name: "stops at NUL", caught: "fetch/exact_bytes", fetch: editValues(func(v string) string {
			v, _, _ = strings.Cut(v, "\x00")
			return v
		})},
		{name: "repairs UTF-8", caught: "fetch/exact_bytes", fetch: editValues(func(v string) string { return strings.ToValidUTF8(v, "?") })},
		{name: "cuts large values", caught: "fetch/exact_bytes", fetch: editValues(func(v string) string { return v[:min(len(v), 4096)] })},
		{name: "drops empty values", caught: "fetch/exact_bytes", fetch: editPayload(func(payload *providers.Payload) {
			for name, v := range payload.Fields {
				if v.Len() == 0 {
					delete(payload.Fields, name)
				}
			}
		})},
		{name: "drops the version", caught: "fetch/value", fetch: editPayload(func(payload *providers.Payload) { payload.Version = "" })},
		{name: "tells a version that it can't know", caught: "fetch/value", harness: func(h *providertest.Harness) { h.VersionsUntold = true }},
		{name: "cleans names", caught: "fetch/hostile_names", fetch: editQuery(func(q *providers.Query) { q.Name = q.Name[strings.LastIndex(q.Name, "/")+1:] })},
		{name: "splits off a query", caught: "fetch/hostile_names", fetch: editQuery(func(q *providers.Query) { q.Name, _, _ = strings.Cut(q.Name, "?") })},
		{name: "matches prefixes", caught: "fetch/missing", fetch: editQuery(func(q *providers.Query) { q.Name = strings.TrimSuffix(q.Name, "s") })},
		{name: "missing is empty", caught: "fetch/missing", fetch: editError(func(error) error { return nil })},
		{name: "missing is unclassified", caught: "fetch/missing", fetch: editError(func(err error) error { return errors.New(err.Error()) })},
		{name: "refuses other metadata", caught: "fetch/other_metadata", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			if len(q.Metadata) > 0 {
				return providers.Payload{}, providers.Errorf(providers.Invalid, "unknown metadata")
			}
			return p.MemoryProvider.Fetch(ctx, q)
		}},
		{name: "quotes a neighbour in errors", caught: "fetch/deleted", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			payload, err := p.MemoryProvider.Fetch(ctx, q)
			if providers.KindOf(err) == providers.NotFound {
				err = providers.Errorf(providers.NotFound, "%s not found any more: it was %s", q.Name, p.last().Fields[q.Name].Reveal())
			}
			p.keep(payload)
			return payload, err
		}},
		{name: "calls changed content unchanged", caught: "fetch/known", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			payload, err := p.MemoryProvider.Fetch(ctx, q)
			if err == nil && q.Known != "" {
				payload.Unchanged = true
			}
			return payload, err
		}},
		{name: "never compares", caught: "fetch/known", fetch: editQuery(func(q *providers.Query) { q.Known = "" })},
		{name: "logs values", caught: "fetch/value", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			payload, err := p.MemoryProvider.Fetch(ctx, q)
			for _, v := range payload.Fields {
				p.log.Debug("fetched", "value", base64.StdEncoding.EncodeToString(v.Reveal()))
			}
			return payload, err
		}},
	}
}

func selectorDefects() []defect {
	return []defect{
		{name: "ignores the version", caught: "select/version", fetch: editQuery(func(q *providers.Query) { q.Version = "" })},
		{name: "ignores the stage", caught: "select/stage", fetch: editQuery(func(q *providers.Query) { q.Stage = "" })},
		{name: "ignores the namespace", caught: "select/namespace", fetch: editQuery(func(q *providers.Query) { q.Namespace = "" })},
		{name: "falls back to the latest version", caught: "select/version", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			payload, err := p.MemoryProvider.Fetch(ctx, q)
			if providers.KindOf(err) == providers.NotFound && q.Version != "" {
				q.Version = ""
				return p.MemoryProvider.Fetch(ctx, q)
			}
			return payload, err
		}},
		{name: "ignores a version it can't select", caught: "select/version",
			fetch:   editQuery(func(q *providers.Query) { q.Version = "" }),
			harness: func(h *providertest.Harness) { h.UnknownVersion = "" }},
		{name: "ignores a stage it can't select", caught: "select/stage",
			fetch:   editQuery(func(q *providers.Query) { q.Stage = "" }),
			harness: func(h *providertest.Harness) { h.CurrentStage, h.PreviousStage = "", "" }},
		{name: "ignores a namespace it can't select", caught: "select/namespace",
			fetch: editQuery(func(q *providers.Query) { q.Namespace = "" }), harness: withoutNamespaces},
		{name: "lists despite a namespace it can't select", caught: "list/namespace",
			list: func(ctx context.Context, p *broken, _ providers.Query) ([]string, error) {
				return p.MemoryProvider.List(ctx, providers.Query{})
			}, harness: withoutNamespaces},
	}
}

func listDefects() []defect {
	return []defect{
		{name: "lists the first page", caught: "list/pages", list: editNames(func(names []string) []string { return names[:min(len(names), pageSize)] })},
		{name: "loses the last page", caught: "list/pages", list: editNames(func(names []string) []string { return names[:len(names)/pageSize*pageSize] })},
		{name: "repeats names", caught: "list/pages", list: editNames(func(names []string) []string { return append(names, names...) })},
		{name: "does not sort", caught: "list/pages", list: editNames(func(names []string) []string {
			slices.Reverse(names)
			return names
		})},
		{name: "lists other names than it fetches", caught: "list/pages", list: editNames(func(names []string) []string {
			for i := range names {
				names[i] = "projects/p/secrets/" + names[i]
			}
			return names
		})},
		{name: "fails on an empty store", caught: "list/empty", list: func(ctx context.Context, p *broken, q providers.Query) ([]string, error) {
			names, err := p.MemoryProvider.List(ctx, q)
			if err == nil && len(names) == 0 {
				err = providers.Errorf(providers.NotFound, "no such directory")
			}
			return names, err
		}},
		{name: "claims to list", caught: "capabilities", harness: func(h *providertest.Harness) { h.Lists = false }},
	}
}

func lifetimeDefects() []defect {
	return []defect{
		{name: "takes denied for missing", caught: "errors/kinds", fetch: editError(func(err error) error {
			if providers.KindOf(err) == providers.Denied {
				return providers.Errorf(providers.NotFound, "not found")
			}
			return err
		})},
		{name: "drops Retry-After", caught: "errors/kinds", fetch: editError(func(err error) error {
			return providers.Errorf(providers.KindOf(err), "%s", err)
		})},
		{name: "answers after the end of the context", caught: "context/ended", fetch: func(_ context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return p.MemoryProvider.Fetch(ctx, q)
		}},
		{name: "hides the end of the context", caught: "context/ends_midway", fetch: editError(func(err error) error {
			if errors.Is(err, context.DeadlineExceeded) {
				return providers.Errorf(providers.Unavailable, "timeout")
			}
			return err
		})},
		{name: "hangs in a listing", caught: "context/ends_midway", list: func(ctx context.Context, p *broken, q providers.Query) ([]string, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return p.MemoryProvider.List(ctx, q)
		}},
		{name: "fails on the second Close", caught: "close", close: func(p *broken) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.closed {
				return errors.New("already closed")
			}
			p.closed = true
			return p.MemoryProvider.Close()
		}},
		{name: "works after Close", caught: "close", close: func(*broken) error { return nil }},
		{name: "mixes answers up", caught: "concurrent", fetch: func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
			p.mu.Lock()
			p.calls++
			mixed := p.calls%7 == 0
			p.mu.Unlock()
			if mixed {
				q.Name = "db"
			}
			payload, err := p.MemoryProvider.Fetch(ctx, q)
			if mixed && err == nil {
				payload.Fields = map[string]secret.Value{"other": payload.Fields["db"]}
			}
			return payload, err
		}},
	}
}

func notifyDefects() []defect {
	return []defect{
		{name: "never notifies", caught: "notify/changes", notify: func(ctx context.Context, _ *broken, _ func(string)) error {
			<-ctx.Done()
			return nil
		}},
		{name: "watches too late", caught: "notify/changes", notify: func(ctx context.Context, p *broken, changed func(string)) error {
			if ctx.Err() == nil {
				<-time.After(100 * time.Millisecond)
			}
			return p.MemoryProvider.Notify(ctx, changed)
		}},
		{name: "notifies too early", caught: "notify/changes", fetch: fetchOnce},
		{name: "misses deletions", caught: "notify/changes", notify: func(ctx context.Context, p *broken, changed func(string)) error {
			return p.MemoryProvider.Notify(ctx, func(name string) {
				if _, err := p.MemoryProvider.Fetch(ctx, providers.Query{Name: name}); err == nil {
					changed(name)
				}
			})
		}},
		{name: "notifies of the first only", caught: "notify/many", notify: func(ctx context.Context, p *broken, changed func(string)) error {
			first := sync.OnceFunc(func() { changed("many-00") })
			return p.MemoryProvider.Notify(ctx, func(string) { first() })
		}},
		{name: "notifies concurrently", caught: "notify/many", notify: func(ctx context.Context, p *broken, changed func(string)) error {
			var wg sync.WaitGroup
			defer wg.Wait()
			return p.MemoryProvider.Notify(ctx, func(name string) {
				for range 8 {
					wg.Go(func() { changed(name) })
				}
			})
		}},
		{name: "returns the end of the context", caught: "notify/ends", notify: func(ctx context.Context, p *broken, changed func(string)) error {
			_ = p.MemoryProvider.Notify(ctx, changed)
			return ctx.Err()
		}},
		{name: "returns nil when closed", caught: "notify/ends", notify: func(ctx context.Context, p *broken, changed func(string)) error {
			_ = p.MemoryProvider.Notify(ctx, changed)
			return nil
		}},
		{name: "goes on when closed", caught: "notify/ends", close: func(*broken) error { return nil }},
	}
}
