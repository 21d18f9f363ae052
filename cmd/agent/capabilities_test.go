package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestCapabilities asserts that each feature that is off takes its rights with it.
func TestCapabilities(t *testing.T) {
	volumes := []int{unix.CAP_CHOWN, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_SYS_ADMIN}
	tests := []struct {
		name       string
		csi        string
		kubernetes kubernetesFlags
		want       []int
	}{
		{"volumes", "csi.sock", kubernetesFlags{enabled: true}, volumes},
		{"volumes and localhost", "csi.sock", kubernetesFlags{enabled: true, runtime: "cri.sock"}, volumes},
		{"localhost", "", kubernetesFlags{enabled: true, runtime: "cri.sock"}, []int{unix.CAP_SYS_ADMIN}},
		{"the node's address alone", "", kubernetesFlags{enabled: true}, nil},
	}
	for _, test := range tests {
		got := (&runFlags{csiSocket: test.csi, kubernetes: test.kubernetes}).capabilities()
		slices.Sort(got)
		slices.Sort(test.want)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
