package kube_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
)

// TestIdentify follows what is known of pods that are identified by their UID alone.
func TestIdentify(t *testing.T) {
	run(t, func(f *fixture) {
		f.start(f.pods.Run)
		synctest.Wait()
		f.refusedPod("web", "gone or not known yet")
		if f.changes == 0 {
			f.Error("the first list is no change")
		}
		f.change("a new pod", func() { f.putPod("web") })
		if id, err := f.pods.Identify("uid-of-web"); err != nil || id != identity("web") {
			f.Errorf("%+v, %v", id, err)
		}
		f.putPod("job", inPhase("Succeeded"))
		f.refusedPod("job", "has ended")
		var names []string
		for _, p := range f.pods.All() {
			names = append(names, p.Name)
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{"job", "web"}, names); diff != "" {
			f.Error(diff)
		}
		f.change("an annotation", func() {
			f.putPod("web", func(pod kubetest.Object) {
				pod["metadata"].(kubetest.Object)["annotations"] = kubetest.Object{"keywell.dev/api": "localhost"}
			})
		})
		if pod, _ := f.pods.Get("uid-of-web"); pod.API() != "localhost" || pod.HasSidecar() {
			f.Errorf("%+v", pod)
		}
		f.change("a deletion", func() {
			f.server.Delete("pods", "shop", "web")
			synctest.Wait()
		})
		f.refusedPod("web", "gone or not known yet")
	})
}

func (f *fixture) change(what string, do func()) {
	f.Helper()
	before := f.changes
	do()
	if f.changes == before {
		f.Errorf("%s is no change", what)
	}
}

func (f *fixture) refusedPod(name, reason string) {
	f.Helper()
	_, err := f.pods.Identify("uid-of-" + name)
	if refusal, ok := err.(*kube.RefusedError); !ok || !strings.Contains(refusal.Reason, reason) {
		f.Errorf("error %#v, want a refusal with %q", err, reason)
	}
}

func TestHasSidecar(t *testing.T) {
	for value, want := range map[string]bool{"": false, "true": true, "True": true, " yes ": true, "1": true, "false": false, "no": false} {
		p := kube.Pod{Annotations: map[string]string{"dapr.io/enabled": value}}
		if p.HasSidecar() != want {
			t.Errorf("dapr.io/enabled %q: %t", value, !want)
		}
	}
}
