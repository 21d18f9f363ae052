package component_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
)

// state is one call of OnChange.
type state struct {
	manifests *component.Manifests
	problems  []component.Problem
}

// names returns the components' names.
func (s state) names() []string {
	names := []string{}
	for _, c := range s.manifests.Components {
		names = append(names, c.Name)
	}
	return names
}

// watch runs a Watcher until the test ends and returns its states.
func watch(t *testing.T, src component.Sources) <-chan state {
	t.Helper()
	states := make(chan state, 100)
	w := component.NewWatcher(component.WatcherOptions{
		Sources:  src,
		OnChange: func(m *component.Manifests, p []component.Problem) { states <- state{m, p} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return states
}

// await returns the first state that ok accepts. A state must come within a few seconds; what is between does not matter.
func await(t *testing.T, states <-chan state, what string, ok func(state) bool) state {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		select {
		case s := <-states:
			if ok(s) {
				return s
			}
		case <-limit:
			t.Fatalf("no state with %s", what)
		}
	}
}

// awaitNames waits until exactly these components are in force.
func awaitNames(t *testing.T, states <-chan state, names ...string) state {
	t.Helper()
	if names == nil {
		names = []string{}
	}
	return await(t, states, "components "+cmp.Diff([]string{}, names), func(s state) bool { return cmp.Equal(s.names(), names) })
}

func manifest(name string) string {
	return "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: " + name + "}\nspec: {type: secretstores.x}\n"
}

func TestWatchFiles(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(root, "link")); err != nil { // as /var/run is
		t.Fatal(err)
	}
	dir := filepath.Join(root, "link/res")
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yml")
	write(t, a, manifest("a"))
	states := watch(t, component.Sources{Directories: []string{dir}})
	awaitNames(t, states, "a")

	write(t, b, manifest("b"))
	awaitNames(t, states, "a", "b")

	write(t, a, manifest("a2"))
	awaitNames(t, states, "a2", "b")

	write(t, a, "apiVersion: [") // half written
	s := await(t, states, "a problem", func(s state) bool { return component.HasErrors(s.problems) })
	if diff := cmp.Diff([]string{"a2", "b"}, s.names()); diff != "" {
		t.Errorf("a bad file does not keep its last good state (-want +got):\n%s", diff)
	}

	write(t, b, manifest("b2")) // others go on changing
	awaitNames(t, states, "a2", "b2")

	write(t, a, "")
	await(t, states, "a problem", func(s state) bool {
		return component.HasErrors(s.problems) && cmp.Equal(s.names(), []string{"a2", "b2"})
	})

	write(t, filepath.Join(dir, "new"), manifest("a3"))
	if err := os.Rename(filepath.Join(dir, "new"), a); err != nil { // as an editor saves
		t.Fatal(err)
	}
	if s := awaitNames(t, states, "a3", "b2"); len(s.problems) > 0 {
		t.Errorf("problems stay: %v", s.problems)
	}

	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	awaitNames(t, states, "a3")

	if err := os.Rename(dir, dir+".old"); err != nil { // a directory is replaced
		t.Fatal(err)
	}
	s = await(t, states, "a problem", func(s state) bool { return component.HasErrors(s.problems) })
	if diff := cmp.Diff([]string{"a3"}, s.names()); diff != "" {
		t.Errorf("a directory that is gone does not keep its last state (-want +got):\n%s", diff)
	}
	write(t, a, manifest("a4"))
	awaitNames(t, states, "a4")
	write(t, a, manifest("a5"))
	awaitNames(t, states, "a5")
}

// TestWatchConfigMap makes the changes that kubelet makes to the mount of a ConfigMap.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	swap := func(generation string, files ...string) {
		for _, name := range files {
			write(t, filepath.Join(dir, generation, name), manifest(name[:1]+generation[len(generation)-1:]))
		}
		link := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(generation, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	visible := func(name string) {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	swap("..1", "a.yaml")
	visible("a.yaml")
	states := watch(t, component.Sources{Directories: []string{dir}})
	awaitNames(t, states, "a1")

	swap("..2", "a.yaml", "b.yaml")
	visible("b.yaml")
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	awaitNames(t, states, "a2", "b2")

	swap("..3", "b.yaml")
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	awaitNames(t, states, "b3")
}

func TestWatchConfigurationFile(t *testing.T) {
	dir := t.TempDir()
	target := write(t, filepath.Join(dir, "elsewhere/c.yaml"), "spec: {secrets: {scopes: [{storeName: a}]}}\n")
	link := filepath.Join(dir, "config/c.yaml")
	if err := os.Mkdir(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	states := watch(t, component.Sources{Files: []string{link}})
	scoped := func(store string) func(state) bool {
		return func(s state) bool {
			scopes := s.manifests.Rules(false).Scopes
			return len(scopes) == 1 && scopes[0].Store == store
		}
	}
	await(t, states, "scopes of a", scoped("a"))

	write(t, target, "spec: {secrets: {scopes: [{storeName: b}]}}\n") // behind the link
	await(t, states, "scopes of b", scoped("b"))

	if err := os.Remove(link); err != nil { // a file that was named must not take its scopes away by vanishing
		t.Fatal(err)
	}
	s := await(t, states, "a problem", func(s state) bool { return component.HasErrors(s.problems) })
	if !scoped("b")(s) {
		t.Error("the scopes are gone with the file")
	}

	write(t, link, "spec: {secrets: {scopes: [{storeName: c}]}}\n")
	await(t, states, "scopes of c", scoped("c"))
}

// TestWatchFaultyPolicy: a policy that is faulty from the start denies everything until it is repaired; a new one that is
// faulty changes nothing.
func TestWatchFaultyPolicy(t *testing.T) {
	const good = "apiVersion: keywell.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\n" +
		"spec: {rules: [{subjects: [{}], stores: ['*'], allow: ['*']}]}\n"
	const bad = "apiVersion: keywell.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {}\n"
	dir := t.TempDir()
	write(t, filepath.Join(dir, "s.yaml"), manifest("s"))
	write(t, filepath.Join(dir, "p.yaml"), bad)
	states := watch(t, component.Sources{Directories: []string{dir}})
	allowed := func(want bool) func(state) bool {
		return func(s state) bool {
			policy, err := scope.NewPolicy(s.manifests.Rules(false))
			return err == nil && policy.Explain(scope.Identity{}, scope.Ref{Store: "s", Name: "n"}).Allowed == want
		}
	}
	await(t, states, "reads denied", allowed(false))
	write(t, filepath.Join(dir, "p.yaml"), good)
	await(t, states, "reads allowed", allowed(true))
	write(t, filepath.Join(dir, "q.yaml"), bad)
	await(t, states, "a problem and reads allowed", func(s state) bool { return component.HasErrors(s.problems) && allowed(true)(s) })
}

func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest("a"))
	write(t, filepath.Join(dir, ".hidden.yaml"), manifest("hidden"))
	write(t, filepath.Join(dir, "sub/b.yaml"), manifest("sub"))
	write(t, filepath.Join(dir, "folder.yaml/b.yaml"), manifest("folder"))
	write(t, filepath.Join(dir, "notes.txt"), manifest("notes"))
	write(t, filepath.Join(dir, "large.yaml"), manifest("large")+"# "+string(make([]byte, 1<<20)))
	if err := unix.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	m, problems := component.Load(component.Sources{Directories: []string{dir, filepath.Join(dir, "absent")}})
	if diff := cmp.Diff([]string{"a"}, (state{manifests: m}).names()); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
	var got []string
	for _, p := range problems {
		got = append(got, filepath.Base(p.File)+": "+p.Message)
	}
	want := []string{
		"absent: read resource directory: no such file or directory",
		"dangling.yaml: read manifest: no such file or directory",
		"large.yaml: read manifest: is larger than 1048576 bytes",
		"pipe.yaml: read manifest: is not a regular file",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
