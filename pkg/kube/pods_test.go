package kube_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/scope"
)

func onNode(name string) func(kubetest.Object) {
	return func(pod kubetest.Object) { pod["spec"].(kubetest.Object)["nodeName"] = name }
}

func inPhase(phase string) func(kubetest.Object) {
	return func(pod kubetest.Object) { pod["status"] = kubetest.Object{"phase": phase} }
}

func TestPods(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("before")
		f.putPod("elsewhere", onNode("node-b"))
		select {
		case <-f.pods.Ready():
			f.Error("ready before Run")
		default:
		}
		f.start(f.pods.Run)
		<-f.pods.Ready()
		f.putPod("after", inPhase("Failed"))
		f.putPod("elsewhere-too", onNode("node-b"))
		for name, want := range map[string]kube.Pod{
			"before": {Namespace: "shop", Name: "before", UID: "uid-of-before", ServiceAccount: "sa", Annotations: map[string]string{"dapr.io/app-id": "app-before"}},
			"after":  {Namespace: "shop", Name: "after", UID: "uid-of-after", ServiceAccount: "sa", Annotations: map[string]string{"dapr.io/app-id": "app-after"}, Ended: true},
		} {
			got, _ := f.pods.Get("uid-of-" + name)
			if diff := cmp.Diff(want, got); diff != "" {
				f.Errorf("pod %s (-want +got):\n%s", name, diff)
			}
		}
		for _, name := range []string{"elsewhere", "elsewhere-too"} {
			if _, ok := f.pods.Get("uid-of-" + name); ok {
				f.Errorf("pod %s is of another node", name)
			}
		}
		for _, r := range f.server.Requests("", "pods") {
			if r.Selector != "spec.nodeName="+node {
				f.Errorf("%s of pods with selector %q", r.Verb, r.Selector)
			}
		}
	})
}

func TestPodIsDeleted(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("seen")
		f.putPod("missed")
		f.start(f.pods.Run)
		f.server.Delete("pods", "shop", "seen")
		synctest.Wait()
		if _, ok := f.pods.Get("uid-of-seen"); ok || len(f.deleted) != 1 || f.deleted[0].Name != "seen" {
			f.Errorf("known %t, deleted %+v", ok, f.deleted)
		}
		gone := false // from the API server's memory, so that the reflector lists again
		f.server.Fail(func(r kubetest.Request) *kubetest.Fault {
			if r.Resource == "pods" && !gone {
				gone = true
				return &kubetest.Fault{Code: http.StatusGone}
			}
			return nil
		})
		f.server.Cut()
		f.server.Delete("pods", "shop", "missed")
		if _, ok := f.pods.Get("uid-of-missed"); !ok {
			f.Error("what is known does not stay while the watch is broken")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, ok := f.pods.Get("uid-of-missed"); ok || len(f.deleted) != 2 || f.deleted[1].Name != "missed" {
			f.Errorf("after a new list: known %t, deleted %+v", ok, f.deleted)
		}
	})
}

// TestKnown: the kubelet's word is taken for a pod that the API server tells of too.
func TestKnown(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a", func(pod kubetest.Object) {
			pod["metadata"].(kubetest.Object)["annotations"].(kubetest.Object)["dapr.io/config"] = "narrow"
		})
		f.putPod("plain", func(pod kubetest.Object) { delete(pod["metadata"].(kubetest.Object), "annotations") })
		f.start(f.pods.Run)
		claims := func(change func(*scope.Identity)) scope.Identity {
			id := identity("a")
			id.AppID, id.Configuration = "claimed", "claimed"
			change(&id)
			return id
		}
		for name, tt := range map[string]struct {
			id           scope.Identity
			appID, about string // about: part of the error
			config       string
		}{
			"annotations":     {claims(func(*scope.Identity) {}), "app-a", "", "narrow"},
			"no annotations":  {identity("plain"), "plain", "", ""},
			"unknown pod":     {claims(func(id *scope.Identity) { id.Pod, id.PodUID = "b", "b" }), "", "has not heard of pod shop/b", ""},
			"other namespace": {claims(func(id *scope.Identity) { id.Namespace = "bank" }), "", "is not bank/a", ""},
			"other account":   {claims(func(id *scope.Identity) { id.ServiceAccount = "admin" }), "", `service account "admin"`, ""},
		} {
			got, err := f.pods.Known(tt.id)
			if got.AppID != tt.appID || got.Configuration != tt.config || (err == nil) != (tt.about == "") || err != nil && !strings.Contains(err.Error(), tt.about) {
				f.Errorf("%s: app id %q, Configuration %q, %v", name, got.AppID, got.Configuration, err)
			}
		}
	})
}

// TestKnownWaits: the kubelet may have heard of a pod first.
func TestKnownWaits(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		got := make(chan scope.Identity)
		go func() {
			id, err := f.pods.Known(identity("late"))
			if err != nil {
				f.Error(err)
			}
			got <- id
		}()
		time.Sleep(time.Second)
		f.putPod("other")
		f.putPod("late")
		if id := <-got; id != identity("late") {
			f.Errorf("got %+v", id)
		}
	})
}

// TestRenew: what the annotations say now counts, and what they said while the pod is not known.
func TestRenew(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a")
		f.start(f.pods.Run)
		before := identity("a")
		before.AppID, before.Configuration = "before", "narrow"
		if got := f.pods.Renew(before); got != identity("a") {
			f.Errorf("known: %+v", got)
		}
		before.PodUID = "unknown"
		if got := f.pods.Renew(before); got != before {
			f.Errorf("unknown: %+v", got)
		}
	})
}
