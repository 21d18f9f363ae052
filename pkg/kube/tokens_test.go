package kube_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// requester returns a TokenRequester of a fixture whose pods are known.
func (f *fixture) requester() *kube.TokenRequester {
	f.Helper()
	r, err := kube.NewTokenRequester(f.client, f.pods)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

func (f *fixture) made(r *kube.TokenRequester, id scope.Identity, audience string) (string, time.Time) {
	f.Helper()
	token, expires, err := r.Tokens(id).Token(f.Context(), audience)
	if err != nil {
		f.Fatal(err)
	}
	return string(token.Reveal()), expires
}

func TestTokensAreMadeOncePerPodAndAudience(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a")
		f.putPod("b")
		r := f.requester()
		f.start(f.pods.Run)
		for range 3 {
			if got, _ := f.made(r, identity("a"), ""); got != "token 1 of shop/sa for [] in pod a uid-of-a" {
				f.Errorf("got %q", got)
			}
		}
		if got, expires := f.made(r, identity("a"), "vault"); got != `token 2 of shop/sa for ["vault"] in pod a uid-of-a` || time.Until(expires) != time.Hour {
			f.Errorf("got %q until %v", got, expires)
		}
		if got, _ := f.made(r, identity("b"), ""); got != "token 3 of shop/sa for [] in pod b uid-of-b" {
			f.Errorf("got %q", got)
		}
		time.Sleep(55*time.Minute - time.Second)
		if got, _ := f.made(r, identity("a"), ""); got != "token 1 of shop/sa for [] in pod a uid-of-a" {
			f.Errorf("before its last five minutes: got %q", got)
		}
		time.Sleep(time.Second)
		if got, _ := f.made(r, identity("a"), ""); got != "token 4 of shop/sa for [] in pod a uid-of-a" {
			f.Errorf("in its last five minutes: got %q", got)
		}
	})
}

func TestTokensAreNotMadeForOthers(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a")
		f.putPod("ended", func(pod kubetest.Object) { pod["status"] = kubetest.Object{"phase": "Succeeded"} })
		r := f.requester()
		if _, _, err := r.Tokens(identity("a")).Token(f.Context(), ""); providers.KindOf(err) != providers.Unavailable {
			f.Errorf("before the pods are known: %v", err)
		}
		f.start(f.pods.Run)
		other, claimed := identity("a"), identity("a")
		other.PodUID, claimed.ServiceAccount = "uid-of-another", "admin"
		for name, id := range map[string]scope.Identity{
			"an ended pod": identity("ended"), "an unknown pod": identity("unknown"), "a pod recreated under the name": other,
			"another service account": claimed, "nobody": {},
		} {
			if _, _, err := r.Tokens(id).Token(f.Context(), ""); providers.KindOf(err) != providers.Denied {
				f.Errorf("%s: %v", name, err)
			}
		}
		f.made(r, identity("a"), "")
		f.server.Delete("pods", "shop", "a")
		time.Sleep(time.Second)
		if _, _, err := r.Tokens(identity("a")).Token(f.Context(), ""); providers.KindOf(err) != providers.Denied {
			f.Errorf("a pod that is gone, whose token was made before: %v", err)
		}
		if got := len(f.server.Requests("create", "serviceaccounts/token")); got != 1 {
			f.Errorf("%d tokens were asked for, want 1", got)
		}
	})
}

func TestTokenRequestErrors(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a")
		r := f.requester()
		f.start(f.pods.Run)
		for code, kind := range map[int]providers.Kind{
			http.StatusForbidden: providers.Denied, http.StatusInternalServerError: providers.Unavailable, http.StatusNotFound: providers.Unavailable,
		} {
			f.server.Fail(func(r kubetest.Request) *kubetest.Fault {
				if r.Verb != "create" {
					return nil
				}
				return &kubetest.Fault{Code: code}
			})
			if _, _, err := r.Tokens(identity("a")).Token(f.Context(), ""); providers.KindOf(err) != kind {
				f.Errorf("%d: error %v, want %v", code, err, kind)
			}
		}
		f.server.Fail(func(kubetest.Request) *kubetest.Fault { return nil })
		f.made(r, identity("a"), "")
	})
	if _, err := kube.NewTokenRequester(nil, nil); err == nil || errors.Is(err, providers.ErrNoTokens) {
		t.Errorf("without a client: %v", err)
	}
}
