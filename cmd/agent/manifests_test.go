package main

import (
	"testing"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
)

// TestNothingBeforeAllIsKnown: files alone would allow what a policy of the cluster denies.
func TestNothingBeforeAllIsKnown(t *testing.T) {
	a := onNode(t)
	id := scope.Identity{Namespace: "shop", ServiceAccount: "web"}
	may := func(name string) bool {
		_, err := a.policy.Authorize(id, scope.Ref{Store: "vault", Name: name})
		return err == nil
	}
	a.filesChanged(&component.Manifests{
		Components: []component.Component{{Name: "vault", Type: "secretstores.local.file"}},
		Policies: []component.AccessPolicy{{Rules: []component.AccessRule{
			{Subjects: []scope.Subject{{}}, Stores: []string{"vault"}, Allow: []string{"*"}},
		}}},
	}, nil)
	if may("db") || may("root") {
		t.Error("files are in force before the objects are known")
	}
	deny := component.Object{Kind: component.KindAccessPolicy, Name: "root", JSON: []byte(
		`{"apiVersion":"keywell.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"root"},"spec":{"rules":[{"subjects":[{}],"stores":["vault"],"deny":["root"]}]}}`)}
	a.objectsChanged([]component.Object{deny})
	if !may("db") || may("root") {
		t.Errorf("db is allowed: %t, root is allowed: %t", may("db"), may("root"))
	}
	a.objectsChanged(nil)
	if !may("root") {
		t.Error("a policy stays that was deleted")
	}
}
