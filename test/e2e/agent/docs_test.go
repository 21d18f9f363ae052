package agent_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/internal/docpage"
	"github.com/keywell/keywell/test/e2e/cluster"
)

// Images as the pages name them. There is no registry, so the node has them already.
var pageImages = [][2]string{
	{agentRepository + ":" + agentTag, "registry.example.com/keywell:dev"},
	{agentRepository + ":" + agentTag, "registry.example.com/keywell:dev2"},
	{cluster.BusyboxImage, "docker.io/library/busybox:1.37"},
}

// TestDocs runs the sessions of the pages that need a cluster, as their reader would: one page after the other, in a
// checkout of the repository.
func TestDocs(t *testing.T) {
	needRoot(t)
	if installed != "" {
		uninstall(t)
	}
	for _, image := range pageImages {
		if err := output(node.Command(t.Context(), "ctr", "-n", "k8s.io", "images", "tag", "--force", image[0], image[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.Apply(t.Context(), readFile(t, "testdata/secretproviderclass.yaml")); err != nil {
		t.Fatal(err)
	}
	dir := checkout(t)
	for _, name := range docpage.Cluster() {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(cleanupKubectl("get", "pods", "-A"))
					t.Log(cleanupKubectl("get", "events", "-A", "--field-selector", "type=Warning"))
				}
			})
			runPage(t, dir, filepath.Join("docs", name))
		})
	}
	_ = output(node.Command(t.Context(), "helm", "uninstall", "keywell", "--namespace", "kube-system", "--wait", "--ignore-not-found"))
}

// runPage runs a page's sessions up to the first command that prints something else: those after it would only fail too.
func runPage(t *testing.T, dir, path string) {
	page, err := docpage.Load(dir, path)
	if err != nil {
		t.Fatal(err)
	}
	s := docpage.Session{Dir: dir, Patience: patience, Command: func(text string) *exec.Cmd {
		cmd := node.Command(t.Context(), "sh", "-c", text)
		cmd.Dir = dir
		return cmd
	}}
	commands := 0
	for _, b := range page.Blocks {
		if b.Name != "" {
			if err := s.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if b.Language != "console" {
			continue
		}
		for _, step := range b.Steps() {
			commands++
			if err := s.Run(step); err != nil {
				t.Fatalf("%s: %v", b.At, err)
			}
		}
	}
	if commands == 0 {
		t.Error("there is no session")
	}
}

// checkout returns a directory that looks like a fresh checkout of this repository. What the sessions write into it is
// not in the repository.
func checkout(t *testing.T) string {
	t.Helper()
	root, err := cluster.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, e := range entries {
		if e.Name() == "bin" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		err = errors.Join(err, os.Symlink(filepath.Join(root, e.Name()), filepath.Join(dir, e.Name())))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
