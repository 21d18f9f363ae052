package volume_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

// TestSecretProviderClass publishes the files of a class, beside a secret, and rotates them.
func TestSecretProviderClass(t *testing.T) {
	n := newNode(t, func(o *volume.Options) { o.Classes = true })
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "s"}, {Name: "secretproviderclass:db"}}})
	if err != nil {
		t.Fatal(err)
	}
	n.policy.Set(policy)
	n.store.set("a", fields{"a": "1"})
	n.store.set("db", fields{"password": "2", "tls/key": "3"})
	req := n.request("v", "a")
	req.Attributes["secretProviderClass"], req.Attributes["mode"] = "db", "0400"
	n.mustPublish(t, req)
	if diff := cmp.Diff(map[string]string{"a": "1", "password": "2", "tls/key": "3"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"v"}, n.Using(volume.ClassStore("db"), "")); diff != "" {
		t.Error(diff)
	}
	n.store.set("db", fields{"password": "4"})
	if out, err := n.Rotate(t.Context(), "v"); err != nil || !out.Changed {
		t.Errorf("rotate: %+v, %v", out, err)
	}
	if diff := cmp.Diff(map[string]string{"a": "1", "password": "4"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	for _, hostile := range []string{"../x", "/x", "a/../b", "..data", "", "a\x00b", "a//b", strings.Repeat("x", 256)} {
		n.store.set("db", fields{"password": "5", hostile: "6"})
		if _, err := n.Rotate(t.Context(), "v"); err == nil || !strings.Contains(err.Error(), "path") {
			t.Errorf("a file %q: %v", hostile, err)
		}
	}
	n.store.set("db", fields{"a": "5"})
	if _, err := n.Rotate(t.Context(), "v"); err == nil || !strings.Contains(err.Error(), `both have path "a"`) {
		t.Errorf("a file that a secret has: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"a": "1", "password": "4"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
}

func TestClassIsRefused(t *testing.T) {
	n := newNode(t)
	req := n.request("v", "")
	for class, want := range map[string]string{"db": "set plugins.secretProviderClasses.enabled", " ": "is empty"} {
		req.Attributes = map[string]string{"secretProviderClass": class}
		if err := n.Publish(t.Context(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("class %q: %v", class, err)
		}
	}
}
