package chart_test

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write deploy/daemonset and the golden files anew")

const deployDir = "../../deploy/daemonset"

const deployHeader = "# Written by make manifests, from charts/keywell with its default values, for kube-system. Don't edit.\n---\n"

// TestDeploy compares the plain manifests with the chart.
func TestDeploy(t *testing.T) {
	rendered, err := render("", newest, "kube-system")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for name, content := range rendered {
		if !strings.Contains(name, "/") && filepath.Ext(name) == ".yaml" {
			want[name] = deployHeader + content
		}
	}
	if *update {
		writeDeploy(t, want)
	}
	paths, err := filepath.Glob(deployDir + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		got[filepath.Base(p)] = string(content)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deploy/daemonset differs from the chart; run make manifests (-chart +deploy):\n%s", diff)
	}
}

func writeDeploy(t *testing.T, files map[string]string) {
	t.Helper()
	old, err := filepath.Glob(deployDir + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(deployDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(deployDir, name), []byte(files[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
