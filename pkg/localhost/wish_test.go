package localhost_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/localhost"
)

func TestWish(t *testing.T) {
	tests := []struct {
		byDefault localhost.Default
		pod       localhost.Pod
		want      localhost.Wish
	}{
		{localhost.Asked, localhost.Pod{}, localhost.Wish{}},
		{localhost.All, localhost.Pod{}, localhost.Wish{Wanted: true}},
		{localhost.Asked, localhost.Pod{Volume: true}, asks},
		{localhost.Asked, localhost.Pod{Annotation: "localhost"}, asks},
		{localhost.All, localhost.Pod{Annotation: "none"}, localhost.Wish{}},
		{localhost.All, localhost.Pod{Annotation: "none", Volume: true}, localhost.Wish{}},
		{localhost.Asked, localhost.Pod{Sidecar: true}, localhost.Wish{}},
		{localhost.All, localhost.Pod{Sidecar: true}, localhost.Wish{Wanted: true, Against: "Dapr sidecar"}},
		{localhost.Asked, localhost.Pod{Annotation: "localhost", Sidecar: true}, localhost.Wish{Wanted: true, Asked: true, Against: "Dapr sidecar"}},
		{localhost.Asked, localhost.Pod{Annotation: "Localhost"}, localhost.Wish{Wanted: true, Asked: true, Against: `"Localhost"; it must be localhost or none`}},
	}
	for _, test := range tests {
		got := test.byDefault.Wish(test.pod)
		if !strings.Contains(got.Against, test.want.Against) || (test.want.Against == "") != (got.Against == "") {
			t.Errorf("%s, %+v: against it is %q", test.byDefault, test.pod, got.Against)
		}
		got.Against = test.want.Against
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s, %+v: %s", test.byDefault, test.pod, diff)
		}
	}
	if _, err := localhost.ParseDefault("some"); err == nil || !strings.Contains(err.Error(), "asked or all") {
		t.Errorf("ParseDefault: %v", err)
	}
}
