package kube_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/kube"
)

func TestReadObjects(t *testing.T) {
	runObjects(t, func(o *objectsFixture) {
		o.put("accesspolicies", "", "all", "1")
		o.fail("components", http.StatusNotFound)
		got, err := kube.ReadObjects(o.Context(), o.client)
		if err != nil || len(got) != 1 || got[0].String() != "AccessPolicy all" {
			o.Errorf("%v, %v", got, err)
		}
		o.fail("accesspolicies", http.StatusForbidden)
		if _, err := kube.ReadObjects(o.Context(), o.client); err == nil {
			o.Error("policies that can't be seen are thought away")
		}
	})
}

func TestReadPod(t *testing.T) {
	run(t, func(f *fixture) {
		f.putPod("a")
		if id, err := kube.ReadPod(f.Context(), f.client, "shop", "a"); err != nil || id != identity("a") {
			f.Errorf("%+v, %v", id, err)
		}
		if _, err := kube.ReadPod(f.Context(), f.client, "shop", "b"); err == nil || !strings.Contains(err.Error(), "pod shop/b does not exist") {
			f.Errorf("%v", err)
		}
	})
}
