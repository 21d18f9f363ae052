package identity_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/identity"
	"github.com/keywell/keywell/pkg/scope"
)

// kubeletContext is the volume context that a kubelet sends for an inline volume with one attribute.
var kubeletContext = map[string]string{
	"csi.storage.k8s.io/pod.name":            "web-0",
	"csi.storage.k8s.io/pod.namespace":       "shop",
	"csi.storage.k8s.io/pod.uid":             "0f3c",
	"csi.storage.k8s.io/serviceAccount.name": "web",
	"csi.storage.k8s.io/ephemeral":           "true",
	"secrets":                                "db",
}

var pod = scope.Identity{Namespace: "shop", ServiceAccount: "web", Pod: "web-0", PodUID: "0f3c", AppID: "web-0"}

// without returns the kubelet's context less some keys.
func without(keys ...string) map[string]string {
	m := maps.Clone(kubeletContext)
	for _, k := range keys {
		delete(m, "csi.storage.k8s.io/"+k)
	}
	return m
}

func TestVolumeContext(t *testing.T) {
	standalone := scope.Identity{AppID: "laptop"}
	tests := []struct {
		name           string
		context        map[string]string
		want           scope.Identity // in Kubernetes
		wantErr        string
		wantStandalone scope.Identity
	}{
		{name: "pod", context: kubeletContext, want: pod, wantStandalone: pod},
		{name: "no pod", context: map[string]string{"secrets": "db", "app-id": "web-0"}, wantErr: "podInfoOnMount", wantStandalone: standalone},
		{name: "nothing", wantErr: "podInfoOnMount", wantStandalone: standalone},
		{name: "no service account", context: without("serviceAccount.name"), wantErr: "lacks csi.storage.k8s.io/serviceAccount.name"},
		{name: "only a name", context: without("pod.namespace", "pod.uid", "serviceAccount.name"), wantErr: "lacks csi.storage.k8s.io/pod.namespace, "},
		{name: "empty namespace", context: func() map[string]string {
			m := maps.Clone(kubeletContext)
			m["csi.storage.k8s.io/pod.namespace"] = ""
			return m
		}(), wantErr: "lacks csi.storage.k8s.io/pod.namespace"},
	}
	check := func(t *testing.T, got scope.Identity, err error, want scope.Identity, wantErr string) {
		t.Helper()
		if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("error %v, want one with %q", err, wantErr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("identity (-want +got):\n%s", diff)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := identity.FromVolumeContext(test.context)
			check(t, got, err, test.want, test.wantErr)
			if errors.Is(err, identity.ErrNoPod) {
				test.wantErr = ""
			}
			got, err = identity.Standalone(standalone)(test.context)
			check(t, got, err, test.wantStandalone, test.wantErr)
		})
	}
}
