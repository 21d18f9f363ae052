package kube_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// token stores a pod with a token that is good for an hour, and returns the token.
func (f *fixture) token(pod string) string {
	f.putPod(pod)
	token := jwt("uid-of-"+pod, time.Now().Add(time.Hour))
	f.server.Review(token, review(pod))
	return token
}

// accepts fails unless a token is accepted as pod's, after as many reviews as said so far.
func (f *fixture) accepts(token, pod string, reviews int) {
	f.Helper()
	got, err := f.reviewer.Attest(f.Context(), secret.FromString(token))
	if diff := cmp.Diff(identity(pod), got); err != nil || diff != "" {
		f.Errorf("error %v, identity (-want +got):\n%s", err, diff)
	}
	f.reviewed(reviews)
}

// refuses fails unless a token is refused for reason, with the text that all refusals have.
func (f *fixture) refuses(token, reason string, reviews int) {
	f.Helper()
	_, err := f.reviewer.Attest(f.Context(), secret.FromString(token))
	refusal, ok := err.(*kube.RefusedError)
	if !ok || !strings.Contains(refusal.Reason, reason) || err.Error() != "the caller is not accepted" {
		f.Errorf("error %#v, want a refusal with %q", err, reason)
	}
	f.reviewed(reviews)
}

func (f *fixture) isUnavailable(token string) {
	f.Helper()
	_, err := f.reviewer.Attest(f.Context(), secret.FromString(token))
	if providers.KindOf(err) != providers.Unavailable {
		f.Errorf("error %v, want Unavailable", err)
	} else if strings.Contains(err.Error(), token) {
		f.Error("the error holds the token")
	}
}

func (f *fixture) reviewed(want int) {
	f.Helper()
	if got := len(f.server.Requests("create", "tokenreviews")); got != want {
		f.Errorf("%d reviews, want %d", got, want)
	}
}

func TestAttest(t *testing.T) {
	run(t, func(f *fixture) {
		f.isUnavailable(jwt("uid-of-a", time.Now().Add(time.Hour))) // pods are not known yet
		f.start(f.pods.Run)
		token := f.token("a")
		f.accepts(token, "a", 1)
		time.Sleep(time.Minute - 1)
		f.accepts(token, "a", 1)
		f.putPod("a", func(pod kubetest.Object) {
			pod["metadata"].(kubetest.Object)["annotations"] = kubetest.Object{"dapr.io/app-id": "renamed"}
		})
		if got, err := f.reviewer.Attest(f.Context(), secret.FromString(token)); err != nil || got.AppID != "renamed" {
			f.Errorf("after the annotation changed: %+v, %v", got, err)
		}
		f.putPod("a")
		time.Sleep(time.Nanosecond)
		f.accepts(token, "a", 2)
	})
}

// TestAttestEndsWithThePod checks that what is cached ends when the pod does.
func TestAttestEndsWithThePod(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		deleted, ended, replaced := f.token("deleted"), f.token("ended"), f.token("replaced")
		f.accepts(deleted, "deleted", 1)
		f.accepts(ended, "ended", 2)
		f.accepts(replaced, "replaced", 3)
		f.server.Delete("pods", "shop", "deleted")
		f.putPod("ended", inPhase("Succeeded"))
		f.server.Delete("pods", "shop", "replaced")
		f.putPod("replaced", func(pod kubetest.Object) { pod["metadata"].(kubetest.Object)["uid"] = "another" })
		synctest.Wait()
		f.refuses(deleted, "a pod that is gone", 3)
		f.refuses(ended, "which has ended", 3)
		f.refuses(replaced, "a pod that is gone", 3)
	})
}

func TestAttestEndsWithTheToken(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		f.putPod("a")
		token := jwt("uid-of-a", time.Now().Add(10*time.Second))
		f.server.Review(token, review("a"))
		f.accepts(token, "a", 1)
		time.Sleep(10 * time.Second)
		f.refuses(token, "it expired at", 1)
	})
}

// TestRefusals are the ways around a review.
func TestRefusals(t *testing.T) {
	good := func(change func(*authenticationv1.TokenReviewStatus)) authenticationv1.TokenReviewStatus {
		s := review("a")
		change(&s)
		return s
	}
	extra := func(name string, values ...string) authenticationv1.TokenReviewStatus {
		return good(func(s *authenticationv1.TokenReviewStatus) {
			s.User.Extra["authentication.kubernetes.io/"+name] = values
		})
	}
	future := func() time.Time { return time.Now().Add(time.Hour) }
	for name, tt := range map[string]struct {
		token   func() string // nil: one that says to be of pod a
		review  authenticationv1.TokenReviewStatus
		reason  string
		reviews int
	}{
		"no token":             {func() string { return "dapr-api-token" }, review("a"), "no service-account token", 0},
		"no JSON":              {func() string { return "a.b.c" }, review("a"), "no service-account token", 0},
		"unbound":              {func() string { return jwt("", future()) }, review("a"), "not bound to a pod", 0},
		"unknown pod":          {func() string { return jwt("uid-of-b", future()) }, review("a"), "gone or not on this node", 0},
		"expired":              {func() string { return jwt("uid-of-a", time.Now()) }, review("a"), "it expired", 0},
		"forged":               {nil, authenticationv1.TokenReviewStatus{}, "does not accept it", 1},
		"other audience":       {nil, good(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"vault"} }), "does not accept it", 1},
		"no audiences":         {nil, good(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }), `not "keywell"`, 1},
		"a user":               {nil, good(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "admin" }), "no service account", 1},
		"review without a pod": {nil, extra("pod-uid"), "not bound to a pod", 1},
		"two pods":             {nil, extra("pod-uid", "uid-of-a", "uid-of-b"), "not bound to a pod", 1},
		"other node":           {nil, extra("node-name", "node-b"), `a pod of node "node-b"`, 1},
		"pod of other name":    {nil, extra("pod-name", "b"), "not what the pod with that UID is", 1},
		"pod of another account": {nil, good(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount:shop:admin" }),
			"not what the pod with that UID is", 1},
		"pod of other namespace": {nil, good(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount:bank:sa" }),
			"not what the pod with that UID is", 1},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(f *fixture) {
				f.start(f.pods.Run)
				f.putPod("a")
				token := jwt("uid-of-a", future())
				if tt.token != nil {
					token = tt.token()
				}
				f.server.Review(token, tt.review)
				f.refuses(token, tt.reason, tt.reviews)
			})
		})
	}
}

func TestRefusalIsRemembered(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		token := f.token("a")
		f.server.Review(token, authenticationv1.TokenReviewStatus{})
		f.refuses(token, "does not accept it", 1)
		f.server.Review(token, review("a"))
		time.Sleep(5*time.Second - 1)
		f.refuses(token, "does not accept it", 1)
		time.Sleep(time.Nanosecond)
		f.accepts(token, "a", 2)
	})
}

func TestServerIsDown(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		known, stranger := f.token("a"), f.token("b")
		f.accepts(known, "a", 1)
		f.server.Fail(func(kubetest.Request) *kubetest.Fault { return &kubetest.Fault{Code: http.StatusServiceUnavailable} })
		f.server.Cut()
		f.accepts(known, "a", 1)
		f.isUnavailable(stranger)
		time.Sleep(time.Minute)
		f.isUnavailable(known)
	})
}

func TestServerHangs(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		token := f.token("a")
		f.server.Fail(func(kubetest.Request) *kubetest.Fault { return &kubetest.Fault{Hang: true} })
		begun := time.Now()
		f.isUnavailable(token)
		if took := time.Since(begun); took != 10*time.Second {
			f.Errorf("took %v, want 10s", took)
		}
	})
}

// TestManyAtOnce checks that callers with one token cost one review.
func TestManyAtOnce(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		token := f.token("a")
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				if _, err := f.reviewer.Attest(f.Context(), secret.FromString(token)); err != nil {
					f.Error(err)
				}
			})
		}
		callers.Wait()
		f.reviewed(1)
	})
}

// TestFloodIsBounded checks that a flood of refused tokens does not make those be forgotten that were accepted.
func TestFloodIsBounded(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		token := f.token("a")
		f.accepts(token, "a", 1)
		const flood = 1500
		for i := range flood {
			forged := jwt("uid-of-a", time.Now().Add(time.Duration(i+1)*time.Hour))
			if _, err := f.reviewer.Attest(f.Context(), secret.FromString(forged+"x")); err == nil {
				f.Fatal("a forged token is accepted")
			}
		}
		f.accepts(token, "a", 1+flood)
	})
}

// TestForgersWaitForThemselves sends tokens that name one pod while reviews hang, and then a token of another.
func TestForgersWaitForThemselves(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		f.putPod("forger")
		token := f.token("a")
		f.server.Fail(func(kubetest.Request) *kubetest.Fault { return &kubetest.Fault{Hang: true} })
		for i := range 10 {
			forged := secret.FromString(jwt("uid-of-forger", time.Now().Add(time.Duration(i+1)*time.Hour)))
			go func() { _, _ = f.reviewer.Attest(f.Context(), forged) }()
		}
		synctest.Wait()
		f.reviewed(4)
		f.server.Fail(func(kubetest.Request) *kubetest.Fault { return nil })
		f.accepts(token, "a", 5)
		f.isUnavailable(jwt("uid-of-forger", time.Now().Add(time.Minute)))
		time.Sleep(10 * time.Second) // the reviews that hang end
		synctest.Wait()
		f.refuses(jwt("uid-of-forger", time.Now().Add(time.Minute)), "does not accept it", 6)
	})
}

// TestReasonIsForTheLog checks that slog shows the reason.
func TestReasonIsForTheLog(t *testing.T) {
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "err", &kube.RefusedError{Reason: "a good one"})
	if !strings.Contains(log.String(), "a good one") {
		t.Error(log.String())
	}
	if text := fmt.Sprint(&kube.RefusedError{Reason: "a good one"}); strings.Contains(text, "good") {
		t.Errorf("the caller sees %q", text)
	}
}
