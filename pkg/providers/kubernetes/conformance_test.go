package kubernetes_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server := kubetest.NewServer(t)
			server.Allow(aliceToken, everything)
			return providertest.Store{
				Provider: &asAlice{Provider: open(t, server, log), server: server},
				Put:      func(name string, fields map[string]string) string { return put(server, "shop", name, fields) },
				PutIn:    func(namespace, name string, fields map[string]string) { put(server, namespace, name, fields) },
				Delete:   func(name string) { server.Delete("secrets", "shop", name) },
				Faults:   faults(server),
				Hang: func() {
					server.Fail(func(kubetest.Request) *kubetest.Fault { return &kubetest.Fault{Hang: true} })
				},
			}
		},
		MultiField: true,
		Binary:     true,
		Lists:      true,
		PageSize:   600, // more than the driver asks for at a time
		Notifies:   true,
		RetryAfter: 3 * time.Second,
	})
}

func faults(server *kubetest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	for kind, f := range map[providers.Kind]kubetest.Fault{
		providers.NotFound:    {Code: http.StatusNotFound},
		providers.Denied:      {Code: http.StatusForbidden},
		providers.Invalid:     {Code: http.StatusBadRequest},
		providers.Unavailable: {Code: http.StatusServiceUnavailable},
		providers.Throttled:   {Code: http.StatusTooManyRequests, Header: retryAfter("3")},
	} {
		all[kind] = func(name string) { fault(server, name, f) }
	}
	return all
}

// asAlice reads on behalf of alice.
type asAlice struct {
	providers.Provider
	server *kubetest.Server
}

func (p *asAlice) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	q.Tokens, q.Caller = token(aliceToken), alice
	return p.Provider.Fetch(ctx, q)
}

func (p *asAlice) List(ctx context.Context, q providers.Query) ([]string, error) {
	q.Tokens, q.Caller = token(aliceToken), alice
	return p.Provider.(providers.Lister).List(ctx, q)
}

// Notify watches what alice has read, so she reads something. It looks at its context, by which it counts as entered,
// when the watch has begun.
func (p *asAlice) Notify(ctx context.Context, changed func(string)) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	watches := p.server.Watches()
	_, _ = p.Fetch(inner, providers.Query{Name: "read-before"})
	returned := make(chan error, 1)
	go func() { returned <- p.Provider.(providers.Notifier).Notify(inner, changed) }()
	for p.server.Watches() == watches {
		select {
		case err := <-returned:
			return err
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-ctx.Done():
		cancel()
		return <-returned
	case err := <-returned:
		return err
	}
}
