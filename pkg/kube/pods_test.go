package kube_test

import (
	"net/http"
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

func TestEnrich(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a")
		f.putPod("plain", func(pod kubetest.Object) { delete(pod["metadata"].(kubetest.Object), "annotations") })
		f.start(f.pods.Run)
		claims := func(change func(*scope.Identity)) scope.Identity {
			id := identity("a")
			id.AppID = "claimed"
			change(&id)
			return id
		}
		for name, tt := range map[string]struct {
			id   scope.Identity
			want string
		}{
			"annotation":      {claims(func(*scope.Identity) {}), "app-a"},
			"no annotation":   {identity("plain"), "plain"},
			"unknown pod":     {claims(func(id *scope.Identity) { id.Pod, id.PodUID = "b", "b" }), "b"},
			"other namespace": {claims(func(id *scope.Identity) { id.Namespace = "bank" }), "a"},
			"other account":   {claims(func(id *scope.Identity) { id.ServiceAccount = "admin" }), "a"},
		} {
			if got := f.pods.Enrich(tt.id).AppID; got != tt.want {
				f.Errorf("%s: app id %q, want %q", name, got, tt.want)
			}
		}
	})
}
