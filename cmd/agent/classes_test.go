package main

import (
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

// TestClassesAreStores: a class is for the pods of its namespace, unless a policy denies it, and takes no other's name.
func TestClassesAreStores(t *testing.T) {
	class := func(namespace string) component.SecretProviderClass {
		return component.SecretProviderClass{Name: "db", Namespace: namespace, Provider: "vault", Position: component.Position{File: namespace + "/db"}}
	}
	m := &component.Manifests{
		Classes: []component.SecretProviderClass{class("shop"), class("bank"), class("shop")},
		Policies: []component.AccessPolicy{{Name: "p", Rules: []component.AccessRule{{
			Subjects: []scope.Subject{{Namespace: "bank", ServiceAccount: "web"}}, Stores: []string{"*"}, Deny: []string{"*"},
		}}}},
	}
	components, problems := withClasses(nil, m.Classes, true)
	if len(components) != 2 || len(problems) != 1 || !strings.Contains(problems[0].Message, "already defined at shop/db") {
		t.Errorf("%d stores, problems %v", len(components), problems)
	}
	policy, err := scope.NewPolicy(rules(m, components, true))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		namespace, account, store string
		allowed                   bool
	}{
		{"shop", "app", volume.ClassStore("db"), true},
		{"bank", "app", volume.ClassStore("db"), true},
		{"bank", "web", volume.ClassStore("db"), false},
		{"evil", "app", volume.ClassStore("db"), false},
		{"evil", "app", "shop/" + volume.ClassStore("db"), false},
	} {
		id := scope.Identity{Namespace: tt.namespace, ServiceAccount: tt.account, Pod: "p", PodUID: "u", AppID: "p"}
		if d := policy.Explain(id, scope.Ref{Store: tt.store, Name: "db"}); d.Allowed != tt.allowed {
			t.Errorf("%s/%s reads %s: %t, %s", tt.namespace, tt.account, tt.store, d.Allowed, d.Rule())
		}
	}
	standalone, problems := withClasses([]component.Component{{Name: volume.ClassStore("db")}}, m.Classes, false)
	if len(standalone) != 1 || len(problems) != 3 {
		t.Errorf("standalone: %d stores, problems %v", len(standalone), problems)
	}
}
