package resolve_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// instant is a provider that answers at once.
func instant(context.Context, providers.Query) (providers.Payload, error) { return one("value"), nil }

// benchResolver returns a resolver with a store of many cached secrets and a request for each.
func benchResolver(b *testing.B, opts resolve.Options) (*resolve.Resolver, []resolve.Request) {
	b.Helper()
	r := resolve.New(opts)
	b.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "s", Provider: fetchFunc(instant), Settings: resolve.Settings{RequestsPerSecond: 1e9, Burst: 1e9}})
	p := policy(b)
	var reqs []resolve.Request
	for i := range 1024 {
		g, err := p.Authorize(alice, scope.Ref{Store: "s", Name: fmt.Sprint("team/application/secret-", i)})
		if err != nil {
			b.Fatal(err)
		}
		reqs = append(reqs, resolve.Request{Grant: g, Origin: "api"})
	}
	for _, req := range reqs {
		if _, err := r.Resolve(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	return r, reqs
}

func BenchmarkHit(b *testing.B) {
	file, err := os.OpenFile(filepath.Join(b.TempDir(), "audit.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for name, audit := range map[string]*slog.Logger{
		"plain":         nil,
		"audit":         slog.New(slog.NewJSONHandler(io.Discard, nil)),
		"audit to file": slog.New(slog.NewJSONHandler(file, nil)),
	} {
		b.Run(name, func(b *testing.B) {
			r, reqs := benchResolver(b, resolve.Options{Audit: audit})
			for i := range b.N {
				if _, err := r.Resolve(b.Context(), reqs[i%len(reqs)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHitParallel(b *testing.B) {
	r, reqs := benchResolver(b, resolve.Options{})
	ctx := b.Context()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := r.Resolve(ctx, reqs[i%len(reqs)]); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkMiss(b *testing.B) {
	r, reqs := benchResolver(b, resolve.Options{})
	for i := range b.N {
		req := reqs[i%len(reqs)]
		req.Fresh = true
		if _, err := r.Resolve(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInvalidateOneOfMany(b *testing.B) {
	r, _ := benchResolver(b, resolve.Options{})
	for range b.N {
		r.Invalidate("s", "team/application/secret-1")
	}
}
