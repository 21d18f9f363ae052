package vault_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

// follow runs Notify and returns what it tells, and what it returns.
func follow(t *testing.T, p providers.Provider) (changes chan string, returned chan error, end context.CancelFunc) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	changes, returned = make(chan string, 100), make(chan error, 1)
	go func() { returned <- p.(providers.Notifier).Notify(ctx, func(name string) { changes <- name }) }()
	t.Cleanup(end)
	return changes, returned, end
}

func next[T any](t *testing.T, c chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

// TestEvents: which events are about which secret, and what a break of the stream is.
func TestEvents(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	events := &vaulttest.Events{Asked: make(chan string, 1)}
	k.Break(events.Serve)
	p := open(t, k.pairs)
	changes, returned, end := follow(t, p)
	if token := next(t, events.Asked); token != k.pairs["vaultToken"] {
		t.Error("subscribed with another token")
	}
	for _, path := range []string{
		k.mount + "/data/dapr/db", k.mount + "/metadata/dapr/team/db", k.mount + "/destroy/dapr/x", // ours
		"other/data/dapr/db", k.mount + "/data/elsewhere/db", // not ours
		"", // nobody knows
	} {
		events.Emit(path)
	}
	var got []string
	for range 5 {
		got = append(got, next(t, changes))
	}
	if diff := cmp.Diff([]string{"", "db", "team/db", "x", ""}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	for _, politely := range []bool{true, false} {
		events.Break(politely)
		if err := next(t, returned); providers.KindOf(err) != providers.Unavailable {
			t.Errorf("broken, politely %t: %v", politely, err)
		}
		end()
		_, returned, end = follow(t, p)
		next(t, events.Asked)
	}
	end()
	if err := next(t, returned); err != nil {
		t.Errorf("ended: %v", err)
	}
}

// TestNoEvents: a Vault without events, a policy that forbids them and a store that is read as the pod only wait.
func TestNoEvents(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	denied := newKV(t, k.Server, "kv-v2")
	denied.Break(answer("/kv-v2/*", 403))
	issuer := vaulttest.NewIssuer(t)
	for name, p := range map[string]providers.Provider{
		"the server has none": open(t, k.pairs),
		"not allowed":         open(t, denied.pairs),
		"as the pod":          openAs(t, providers.AsPod, k.jwt(t, issuer, nil)),
	} {
		t.Run(name, func(t *testing.T) {
			changes, returned, end := follow(t, p)
			select {
			case err := <-returned:
				t.Fatalf("returned %v", err)
			case change := <-changes:
				t.Errorf("told of a change of %q", change)
			case <-time.After(300 * time.Millisecond):
			}
			end()
			if err := next(t, returned); err != nil {
				t.Errorf("ended: %v", err)
			}
		})
	}
}
