package kube_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/providers"
)

func TestServiceAccountAnnotations(t *testing.T) {
	run(t, func(f *fixture) {
		accounts := kube.NewServiceAccounts(f.client)
		f.server.Put("serviceaccounts", "shop", "alice", kubetest.Object{
			"metadata": kubetest.Object{"annotations": kubetest.Object{"eks.amazonaws.com/role-arn": "r"}},
		})
		got, err := accounts.Annotations(f.Context(), "shop", "alice")
		if diff := cmp.Diff(map[string]string{"eks.amazonaws.com/role-arn": "r"}, got); err != nil || diff != "" {
			f.Errorf("error %v, mismatch (-want +got):\n%s", err, diff)
		}
		for code, kind := range map[int]providers.Kind{
			http.StatusNotFound: providers.NotFound, http.StatusForbidden: providers.Denied, http.StatusInternalServerError: providers.Unavailable,
		} {
			f.server.Fail(func(r kubetest.Request) *kubetest.Fault {
				if r.Verb != "get" {
					return nil
				}
				return &kubetest.Fault{Code: code}
			})
			if _, err := accounts.Annotations(f.Context(), "shop", "alice"); providers.KindOf(err) != kind {
				f.Errorf("%d: error %v, want %v", code, err, kind)
			}
		}
	})
}
