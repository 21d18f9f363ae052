package kube_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/scope"
)

// withEvents runs a test with Events that are running.
func withEvents(t *testing.T, test func(*fixture, *kube.Events)) {
	t.Helper()
	run(t, func(f *fixture) {
		events, err := kube.NewEvents(kube.EventsOptions{Client: f.client, Node: node, Registerer: f.registry})
		if err != nil {
			t.Fatal(err)
		}
		f.start(events.Run)
		test(f, events)
	})
}

// written returns the messages of the events so far with their counts, oldest first.
func (f *fixture) written() []string {
	synctest.Wait()
	var all []string
	for _, e := range f.server.Objects("events") {
		all = append(all, fmt.Sprintf("%v ×%v", e["message"], e["count"]))
	}
	return all
}

func (f *fixture) wantWritten(want ...string) {
	f.Helper()
	if diff := cmp.Diff(want, f.written()); diff != "" {
		f.Errorf("events (-want +got):\n%s", diff)
	}
}

// results returns how many events had each result.
func (f *fixture) results() map[string]float64 {
	families, err := f.registry.Gather()
	if err != nil {
		f.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		if family.GetName() == "keywell_kube_events_total" {
			for _, m := range family.GetMetric() {
				all[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return all
}

func TestEvent(t *testing.T) {
	withEvents(t, func(f *fixture, events *kube.Events) {
		begun := time.Now()
		events.Emit(kube.Event{Pod: identity("a"), Reason: kube.Denied, Message: "rule x denies it"})
		events.Emit(kube.Event{Pod: scope.Identity{AppID: "laptop"}, Reason: kube.Denied, Message: "has no place"})
		f.wantWritten("rule x denies it ×1")
		got := f.server.Objects("events")[0]
		delete(got["metadata"].(kubetest.Object), "resourceVersion")
		at := begun.UTC().Format(time.RFC3339)
		want := kubetest.Object{
			"apiVersion": "v1", "kind": "Event",
			"metadata":       kubetest.Object{"namespace": "shop", "name": fmt.Sprintf("a.%x", begun.UnixNano())},
			"involvedObject": kubetest.Object{"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "a", "uid": "uid-of-a"},
			"type":           "Warning", "reason": "SecretDenied", "message": "rule x denies it", "count": 1.0,
			"firstTimestamp": at, "lastTimestamp": at, "eventTime": nil,
			"source":             kubetest.Object{"component": "keywell", "host": node},
			"reportingComponent": "keywell", "reportingInstance": node,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			f.Errorf("event (-want +got):\n%s", diff)
		}
	})
}

// TestRepetitions says the same every minute for two hours.
func TestRepetitions(t *testing.T) {
	withEvents(t, func(f *fixture, events *kube.Events) {
		for range 120 {
			events.Emit(kube.Event{Pod: identity("a"), Reason: kube.StoreDown, Message: "down"})
			time.Sleep(time.Minute)
		}
		f.wantWritten("down ×1", "down ×5", "down ×10", "down ×20", "down ×40")
		if diff := cmp.Diff(map[string]float64{"written": 5, "repeated": 115}, f.results()); diff != "" {
			f.Errorf("results (-want +got):\n%s", diff)
		}
		time.Sleep(3 * time.Hour)
		events.Emit(kube.Event{Pod: identity("a"), Reason: kube.StoreDown, Message: "down"})
		if got := f.written(); got[len(got)-1] != "down ×1" {
			f.Errorf("after a long time: %v", got)
		}
	})
}

// TestMessagesThatDiffer says something else every second for an hour, as errors with a time in them do.
func TestMessagesThatDiffer(t *testing.T) {
	withEvents(t, func(f *fixture, events *kube.Events) {
		for i := range 3600 {
			events.Emit(kube.Event{Pod: identity("a"), Reason: kube.StoreDown, Message: fmt.Sprint("retry ", i)})
			time.Sleep(time.Second)
		}
		f.wantWritten("retry 0 ×1", "retry 10 ×10", "retry 30 ×20", "retry 70 ×40", "retry 150 ×80", "retry 310 ×160",
			"retry 630 ×320", "retry 1270 ×640", "retry 2550 ×1280")
	})
}

// TestPodsAndReasonsAreApart checks that what is said of one does not silence another.
func TestPodsAndReasonsAreApart(t *testing.T) {
	withEvents(t, func(f *fixture, events *kube.Events) {
		for _, pod := range []string{"a", "b"} {
			for _, reason := range []kube.Reason{kube.Denied, kube.Rotated} {
				events.Emit(kube.Event{Pod: identity(pod), Reason: reason, Message: pod + string(reason)})
				time.Sleep(time.Nanosecond) // events are named by the time
			}
		}
		f.wantWritten("aSecretDenied ×1", "aSecretsRotated ×1", "bSecretDenied ×1", "bSecretsRotated ×1")
		var types []any
		for _, e := range f.server.Objects("events") {
			types = append(types, e["type"])
		}
		if !slices.Equal(types, []any{"Warning", "Normal", "Warning", "Normal"}) {
			f.Errorf("types %v", types)
		}
	})
}

// TestEventNotWritten finds what is not written in the log, unless the namespace is being deleted and takes no more.
func TestEventNotWritten(t *testing.T) {
	for name, tt := range map[string]struct {
		cause  metav1.CauseType
		logged bool
	}{
		"no right":                 {"", true},
		"namespace that is ending": {corev1.NamespaceTerminatingCause, false},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(f *fixture) {
				f.server.Fail(func(kubetest.Request) *kubetest.Fault {
					return &kubetest.Fault{Code: http.StatusForbidden, Cause: tt.cause}
				})
				var log bytes.Buffer
				events, err := kube.NewEvents(kube.EventsOptions{
					Client: f.client, Node: node, Registerer: f.registry, Logger: slog.New(slog.NewTextHandler(&log, nil)),
				})
				if err != nil {
					t.Fatal(err)
				}
				f.start(events.Run)
				events.Emit(kube.Event{Pod: identity("a"), Reason: kube.Denied, Message: "rule x denies it"})
				synctest.Wait()
				if got := strings.Contains(log.String(), "event not written"); got != tt.logged {
					t.Errorf("logged: %v, want %v", got, tt.logged)
				}
				if f.results()["failed"] != 1 {
					t.Errorf("results %v", f.results())
				}
			})
		})
	}
}

// TestStorm emits more at once than is written at once, and more than waits.
func TestStorm(t *testing.T) {
	withEvents(t, func(f *fixture, events *kube.Events) {
		f.server.Fail(func(kubetest.Request) *kubetest.Fault { return &kubetest.Fault{Code: http.StatusForbidden} })
		const storm = 1000
		for i := range storm {
			events.Emit(kube.Event{Pod: identity(fmt.Sprint("pod-", i)), Reason: kube.StoreDown, Message: "down"})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(f.server.Requests("create", "events")); n < 25 || n > 31 {
			f.Errorf("%d events within a second, want the burst of 25 and 5", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		got := f.results()
		if got["failed"]+got["dropped"] != storm || got["dropped"] < 700 {
			f.Errorf("results %v", got)
		}
		if n := testutil.CollectAndCount(f.registry, "keywell_kube_events_total"); n > 4 {
			f.Errorf("%d label sets", n)
		}
	})
}

func TestLongNames(t *testing.T) {
	withEvents(t, func(f *fixture, events *kube.Events) {
		pod := identity("a")
		pod.Pod = strings.Repeat("a", 229) + "." + strings.Repeat("a", 20)
		events.Emit(kube.Event{Pod: pod, Reason: kube.Denied, Message: strings.Repeat("ä", 1000)})
		synctest.Wait()
		e := f.server.Objects("events")[0]
		name := e["metadata"].(kubetest.Object)["name"].(string)
		if len(name) > 253 || strings.Contains(name, "..") {
			f.Errorf("the event is named %q", name)
		}
		if m := e["message"].(string); m != strings.Repeat("ä", 512) {
			f.Errorf("the message has %d bytes", len(m))
		}
	})
}
