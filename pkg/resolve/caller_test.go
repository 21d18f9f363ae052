package resolve_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
)

// TestCaller checks that a store learns who asks where it decides about pods, and nowhere else.
func TestCaller(t *testing.T) {
	pod := providers.Caller{Namespace: "shop", ServiceAccount: "alice", Pod: "alice-1", PodUID: "uid-1"}
	for perIdentity, want := range map[bool]providers.Caller{true: pod, false: {}} {
		f := newFixture(t, resolve.Settings{PerIdentity: perIdentity})
		f.put("a", "1")
		f.want(read(t, "a"), "1", false, 1)
		if diff := cmp.Diff(want, f.store.Queries()[0].Caller); diff != "" {
			t.Errorf("PerIdentity %t, mismatch (-want +got):\n%s", perIdentity, diff)
		}
	}
}
