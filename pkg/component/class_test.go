package component_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/component"
)

const classManifest = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: db, namespace: shop}
spec:
  provider: vault
  parameters:
    roleName: app
    objects: |
      - objectName: password
        secretPath: secret/data/db
`

func TestSecretProviderClass(t *testing.T) {
	m, problems := load(t, classManifest)
	noProblems(t, problems)
	want := []component.SecretProviderClass{{
		Name: "db", Namespace: "shop", Provider: "vault",
		Parameters: map[string]string{"roleName": "app", "objects": "- objectName: password\n  secretPath: secret/data/db\n"},
	}}
	ignored := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Position" }, cmp.Ignore())
	if diff := cmp.Diff(want, m.Classes, ignored); diff != "" {
		t.Error(diff)
	}
	if m.Classes[0].Position.Line != 1 {
		t.Errorf("position is %v", m.Classes[0].Position)
	}
}

// TestClassObjects has a class of the cluster: whatever namespace its text names, it is of its own.
func TestClassObjects(t *testing.T) {
	objects := component.NewObjects(component.ObjectsOptions{Trusted: component.TrustNamespaces(nil)})
	object := func(text string) component.Object {
		return component.Object{Kind: component.KindSecretProviderClass, Namespace: "shop", Name: "db", JSON: []byte(text)}
	}
	const good = `{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"db","namespace":"bank"},"spec":{"provider":"vault","parameters":{"a":"b"}}}`
	for _, text := range []string{good, `{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"db"},"spec":{}}`} {
		m, problems := objects.Load([]component.Object{object(text)})
		if len(m.Classes) != 1 || m.Classes[0].Namespace != "shop" || m.Classes[0].Provider != "vault" || component.HasErrors(problems) != (text != good) {
			t.Errorf("%s: %+v, %v", text, m.Classes, problems)
		}
	}
	if m, _ := objects.Load(nil); len(m.Classes) != 0 {
		t.Errorf("a class that is gone: %+v", m.Classes)
	}
	m, _ := load(t, classManifest)
	if both := m.With(m); len(both.Classes) != 2 {
		t.Errorf("together: %+v", both.Classes)
	}
}
