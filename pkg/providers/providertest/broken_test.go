package providertest_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/secret"
)

// runBroken is set in the process that runs the suite on broken providers, where it must fail.
const runBroken = "PROVIDERTEST_RUN_BROKEN"

// TestDefectsAreCaught runs the suite on every defect, in another process because its failures are the point.
func TestDefectsAreCaught(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$", "-test.v", "-test.parallel=16")
	cmd.Env = append(os.Environ(), runBroken+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("the suite passed on broken providers")
	}
	failed := func(name string) bool {
		return strings.Contains(string(out), "--- FAIL: TestBroken/"+strings.ReplaceAll(name, " ", "_")+" ")
	}
	if failed("none") || !strings.Contains(string(out), "--- PASS: TestBroken/none ") {
		t.Fatalf("the suite did not pass on the provider without a defect:\n%s", out)
	}
	for _, d := range defects() {
		t.Run(d.name, func(t *testing.T) {
			if !failed(d.name + "/" + d.caught) {
				t.Errorf("case %s did not notice", d.caught)
			}
		})
	}
}

// TestBroken is the other process.
func TestBroken(t *testing.T) {
	if os.Getenv(runBroken) == "" {
		t.Skip("run by TestDefectsAreCaught")
	}
	for _, d := range append(defects(), defect{name: "none"}) {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			h := harness(func(m *providertest.Memory, log *slog.Logger) providers.Provider {
				return &broken{MemoryProvider: m.Provider(), defect: d, log: log}
			})
			h.Patience = time.Second
			if d.harness != nil {
				d.harness(&h)
			}
			providertest.Run(t, h)
		})
	}
}

// broken is Memory's provider with a defect.
type broken struct {
	*providertest.MemoryProvider
	defect defect
	log    *slog.Logger

	mu     sync.Mutex
	kept   providers.Payload // for the defect's own use, as are the others
	calls  int
	closed bool
}

func (p *broken) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if p.defect.fetch == nil {
		return p.MemoryProvider.Fetch(ctx, q)
	}
	return p.defect.fetch(ctx, p, q)
}

func (p *broken) List(ctx context.Context, q providers.Query) ([]string, error) {
	if p.defect.list == nil {
		return p.MemoryProvider.List(ctx, q)
	}
	return p.defect.list(ctx, p, q)
}

func (p *broken) Notify(ctx context.Context, changed func(string)) error {
	if p.defect.notify == nil {
		return p.MemoryProvider.Notify(ctx, changed)
	}
	return p.defect.notify(ctx, p, changed)
}

func (p *broken) Close() error {
	if p.defect.close == nil {
		return p.MemoryProvider.Close()
	}
	return p.defect.close(p)
}

// keep remembers the last payload that was fetched.
func (p *broken) keep(payload providers.Payload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if payload.Fields != nil {
		p.kept = payload
	}
}

// last returns what keep kept; without fields if nothing.
func (p *broken) last() providers.Payload {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept
}

// fetchOnce is a Fetch that answers from the last payload if it has the name.
func fetchOnce(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
	if last := p.last(); hasField(last, q.Name) {
		return last, nil
	}
	payload, err := p.MemoryProvider.Fetch(ctx, q)
	p.keep(payload)
	return payload, err
}

func hasField(p providers.Payload, name string) bool {
	_, ok := p.Fields[name]
	return ok
}

type fetchFunc = func(context.Context, *broken, providers.Query) (providers.Payload, error)

// editQuery returns a Fetch that changes the query.
func editQuery(edit func(*providers.Query)) fetchFunc {
	return func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
		edit(&q)
		return p.MemoryProvider.Fetch(ctx, q)
	}
}

// editPayload returns a Fetch that changes the answer.
func editPayload(edit func(*providers.Payload)) fetchFunc {
	return func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
		payload, err := p.MemoryProvider.Fetch(ctx, q)
		edit(&payload)
		return payload, err
	}
}

// editValues returns a Fetch that changes every value.
func editValues(edit func(string) string) fetchFunc {
	return editPayload(func(payload *providers.Payload) {
		for name, v := range payload.Fields {
			payload.Fields[name] = secret.FromString(edit(string(v.Reveal())))
		}
	})
}

// editError returns a Fetch that changes the error.
func editError(edit func(error) error) fetchFunc {
	return func(ctx context.Context, p *broken, q providers.Query) (providers.Payload, error) {
		payload, err := p.MemoryProvider.Fetch(ctx, q)
		if err != nil {
			err = edit(err)
		}
		return payload, err
	}
}

// editNames returns a List that changes the names.
func editNames(edit func([]string) []string) func(context.Context, *broken, providers.Query) ([]string, error) {
	return func(ctx context.Context, p *broken, q providers.Query) ([]string, error) {
		names, err := p.MemoryProvider.List(ctx, q)
		return edit(names), err
	}
}

// withoutNamespaces makes the harness say that the store has none.
func withoutNamespaces(h *providertest.Harness) {
	open := h.Open
	h.Open = func(t *testing.T, log *slog.Logger) providertest.Store {
		s := open(t, log)
		s.PutIn = nil
		return s
	}
}
