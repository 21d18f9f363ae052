package kube_test

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/logtest"
	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
)

// objectsFixture follows the objects of a server.
type objectsFixture struct {
	*fixture
	objects *kube.Objects

	mu    sync.Mutex
	last  []component.Object
	calls int
}

func runObjects(t *testing.T, test func(*objectsFixture)) {
	run(t, func(f *fixture) {
		o := &objectsFixture{fixture: f}
		var err error
		o.objects, err = kube.NewObjects(kube.ObjectsOptions{
			Client: f.client, Manifests: true, Classes: true, Registerer: f.registry, OnChange: o.changed,
		})
		if err != nil {
			f.Fatal(err)
		}
		test(o)
	})
}

func (o *objectsFixture) changed(all []component.Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.calls = all, o.calls+1
}

// told returns what was told last, and how often something was.
func (o *objectsFixture) told() ([]component.Object, int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.calls
}

// fail makes requests for a resource fail with a code; zero ends that.
func (o *objectsFixture) fail(resource string, code int) {
	o.server.Fail(func(r kubetest.Request) *kubetest.Fault {
		if code == 0 || r.Resource != resource {
			return nil
		}
		return &kubetest.Fault{Code: code}
	})
}

// put stores an object, and waits until that has been told.
func (o *objectsFixture) put(resource, namespace, name, value string) {
	o.server.Put(resource, namespace, name, kubetest.Object{
		"metadata": kubetest.Object{"uid": "u", "managedFields": []any{}}, "spec": kubetest.Object{"value": value}, "status": kubetest.Object{"x": 1},
	})
	o.settle(time.Second)
}

func (o *objectsFixture) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want fails the test unless these objects were told last.
func (o *objectsFixture) want(what string, want ...string) {
	o.Helper()
	got := []string{}
	last, _ := o.told()
	for _, obj := range last {
		got = append(got, obj.String()+" "+string(obj.JSON))
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		o.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const (
	vaultObject  = `Component shop/vault {"apiVersion":"dapr.io/v1alpha1","kind":"Component","metadata":{"namespace":"shop","name":"vault"},"spec":{"value":"1"}}`
	vaultChanged = `Component shop/vault {"apiVersion":"dapr.io/v1alpha1","kind":"Component","metadata":{"namespace":"shop","name":"vault"},"spec":{"value":"2"}}`
	policyOfAll  = `AccessPolicy all {"apiVersion":"keywell.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"all"},"spec":{"value":"1"}}`
)

// TestObjects follows objects as they come, change and go.
func TestObjects(t *testing.T) {
	runObjects(t, func(o *objectsFixture) {
		o.put("components", "shop", "vault", "1")
		o.start(o.objects.Run)
		o.settle(time.Second)
		<-o.objects.Ready()
		o.want("at the start", vaultObject)
		o.put("accesspolicies", "", "all", "1")
		o.want("a new one", vaultObject, policyOfAll)
		o.put("components", "shop", "vault", "2")
		o.want("a change", vaultChanged, policyOfAll)
		o.server.Delete("components", "shop", "vault")
		o.settle(time.Second)
		o.want("a deletion", policyOfAll)
		o.server.Bookmark("accesspolicies")
		_, before := o.told()
		o.settle(time.Hour) // streams end and are begun again
		if _, calls := o.told(); calls != before {
			o.Errorf("%d calls for no change", calls-before)
		}
		o.put("components", "shop", "vault", "1")
		o.want("after an hour", vaultObject, policyOfAll)
	})
}

// TestObjectsWithoutCRD: a kind that is not installed is nothing to wait for, and is noticed when it comes.
func TestObjectsWithoutCRD(t *testing.T) {
	runObjects(t, func(o *objectsFixture) {
		o.put("accesspolicies", "", "all", "1")
		o.put("components", "shop", "vault", "1")
		o.fail("components", http.StatusNotFound)
		o.start(o.objects.Run)
		o.settle(time.Second)
		<-o.objects.Ready()
		o.want("without Components", policyOfAll)
		o.fail("", 0)
		o.settle(30 * time.Second)
		o.want("with them", vaultObject, policyOfAll)

		o.fail("components", http.StatusNotFound) // as an API server says that is starting
		o.server.Cut()
		o.settle(10 * time.Second)
		o.want("said once to be gone", vaultObject, policyOfAll)
		o.settle(time.Minute)
		o.want("gone", policyOfAll)
	})
}

// TestObjectsWhileTheServerIsAway: what is known stays, and what was missed is made up for.
func TestObjectsWhileTheServerIsAway(t *testing.T) {
	runObjects(t, func(o *objectsFixture) {
		o.put("components", "shop", "vault", "1")
		o.put("accesspolicies", "", "all", "1")
		o.start(o.objects.Run)
		o.settle(time.Second)
		for _, code := range []int{http.StatusServiceUnavailable, http.StatusUnauthorized, http.StatusForbidden, http.StatusGone} {
			o.fail("components", code)
			o.server.Cut()
			o.settle(10 * time.Minute)
			o.want(http.StatusText(code), vaultObject, policyOfAll)
		}
		o.server.Delete("components", "shop", "vault")
		o.fail("", 0)
		o.settle(time.Minute)
		o.want("afterwards", policyOfAll)
	})
}

// TestObjectsForbidden: without the right to see policies, none of them may be thought away.
func TestObjectsForbidden(t *testing.T) {
	run(t, func(f *fixture) {
		var log logtest.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		objects, err := kube.NewObjects(kube.ObjectsOptions{
			Client: f.client, Manifests: true, Logger: logger, OnChange: func([]component.Object) { f.Error("something is in force") },
		})
		if err != nil {
			f.Fatal(err)
		}
		o := &objectsFixture{fixture: f, objects: objects}
		o.fail("accesspolicies", http.StatusForbidden)
		o.start(objects.Run)
		o.settle(10 * time.Minute)
		if n := strings.Count(log.String(), "grant the agent what the chart grants, or run it without --cluster-objects"); n != 1 {
			f.Errorf("said %d times:\n%s", n, log.String())
		}
	})
}
