package vault_test

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// kubernetes sets up Kubernetes auth for the service account "reader" of namespace "shop", and returns its properties.
func (k *kv) kubernetes(t *testing.T, issuer *vaulttest.Issuer) map[string]string {
	t.Helper()
	mount := k.Auth(t, "kubernetes")
	host, ca := issuer.Reviewer(t)
	k.Server.Put(t, "auth/"+mount+"/config", map[string]any{
		"kubernetes_host": host, "kubernetes_ca_cert": ca, "token_reviewer_jwt": issuer.JWT(t, "kube", "vault", "api"), "disable_local_ca_jwt": true,
	})
	k.Server.Put(t, "auth/"+mount+"/role/app", map[string]any{
		"bound_service_account_names": "reader", "bound_service_account_namespaces": "shop", "token_policies": k.policy, "audience": "vault",
	})
	return merged(k.pairs, map[string]string{"vaultAuthMethod": "kubernetes", "vaultAuthMountPath": mount, "vaultAuthRole": "app"})
}

// TestRequestsOfManyPods: 100 pods of one service account that share 10 secrets cost Vault one login, and ten reads per
// interval. Other systems make 100 logins, and a thousand reads per interval.
func TestRequestsOfManyPods(t *testing.T) {
	const pods, secrets, intervals, interval = 100, 10, 3, 2 * time.Second
	k := authKV(t)
	for i := range secrets {
		k.put(t, fmt.Sprint("secret-", i), map[string]any{"k": fmt.Sprint("value-", i)})
	}
	issuer := vaulttest.NewIssuer(t)
	r := resolver(t, openAs(t, providers.AsPod, k.kubernetes(t, issuer)), resolve.Settings{PerIdentity: true})
	k.Seen()
	for n := range intervals {
		begun := time.Now()
		var wg sync.WaitGroup
		for pod := range pods {
			wg.Go(func() {
				id := scope.Identity{Namespace: "shop", ServiceAccount: "reader", Pod: fmt.Sprint("pod-", pod), PodUID: fmt.Sprint("uid-", pod)}
				for i := range secrets {
					req := request(t, fmt.Sprint("secret-", i), id)
					req.MaxAge, req.Tokens = interval, vaulttest.Tokens{T: t, Issuer: issuer, Namespace: "shop", Account: "reader"}
					res, err := r.Resolve(t.Context(), req)
					if err != nil || string(res.Fields["k"].Reveal()) != fmt.Sprint("value-", i) {
						t.Errorf("pod %d, secret %d: %v", pod, i, err)
					}
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took > interval {
			t.Skipf("this machine is too slow: %d reads took %v", pods*secrets, took)
		}
		got := map[string]int{}
		for _, seen := range k.Seen() {
			switch {
			case strings.Contains(seen, "/login"):
				got["logins"]++
			case strings.Contains(seen, "/sys/"):
				got["questions about the mount"]++
			default:
				got["reads"]++
			}
		}
		want := map[string]int{"reads": secrets}
		if n == 0 {
			want["logins"], want["questions about the mount"] = 1, 1
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("interval %d (-want +got):\n%s", n, diff)
		}
		<-time.After(time.Until(begun.Add(interval + 50*time.Millisecond)))
	}
}

// TestOutage: in each kind of fault the last good answer is served and marked, Vault is left alone after some tries, and
// when it is back, one request brings every reader up to date.
func TestOutage(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"sealed":        answer("", http.StatusServiceUnavailable),
		"standby":       answer("", 473),
		"5xx":           answer("", http.StatusInternalServerError),
		"not caught up": answer("", http.StatusPreconditionFailed),
		"throttled":     answer("", http.StatusTooManyRequests, "Retry-After", "1"),
		"redirected":    answer("", http.StatusTemporaryRedirect, "Location", "https://other.example/"),
		"hanging":       hang,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKV(t, vaulttest.Shared(t), "kv-v2")
			k.put(t, "db", map[string]any{"k": "before"})
			r := resolver(t, open(t, k.pairs), resolve.Settings{CacheTTL: time.Millisecond, RequestTimeout: 500 * time.Millisecond})
			req := request(t, "db", scope.Identity{})
			resolved(t, r, req)
			k.Seen()

			k.Break(fault)
			k.put(t, "db", map[string]any{"k": "after"})
			for range 100 {
				fields, res := resolved(t, r, req)
				if fields["k"] != "before" || !res.Stale {
					t.Fatalf("%q, stale %t", fields["k"], res.Stale)
				}
			}
			if n := len(k.Seen()); n > 15 {
				t.Errorf("100 reads made %d requests to a Vault that fails", n)
			}

			k.Break(nil)
			eventually(t, "the new value", func() bool {
				fields, res := resolved(t, r, req)
				return fields["k"] == "after" && !res.Stale
			})
			seen := k.Seen()
			sort.Strings(seen)
			if len(seen) > 4 {
				t.Errorf("recovery made %d requests: %q", len(seen), seen)
			}
		})
	}
}

// TestSealedVaultKeepsNoStoreFromOpening, and the first read after it is unsealed works.
func TestSealedVaultKeepsNoStoreFromOpening(t *testing.T) {
	k := newKV(t, vaulttest.Own(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	if err := k.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	r := resolver(t, open(t, k.pairs), resolve.Settings{})
	if _, err := r.Resolve(t.Context(), request(t, "db", scope.Identity{})); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("sealed: %v", err)
	}
	k.Unseal(t)
	eventually(t, "the value", func() bool {
		res, err := r.Resolve(t.Context(), request(t, "db", scope.Identity{}))
		return err == nil && string(res.Fields["k"].Reveal()) == "v"
	})
}
