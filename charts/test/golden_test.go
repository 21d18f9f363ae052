package chart_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestGolden renders each testdata/*.txtar. Its first file is values.yaml, the others are templates and what they have
// to give; deploy/daemonset is the golden file of the default values.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if archive.Files[0].Name != "values.yaml" {
				t.Fatalf("%s does not begin with values.yaml", path)
			}
			rendered := mustRender(t, string(archive.Files[0].Data), newest)
			for i := range archive.Files[1:] {
				f := &archive.Files[1+i]
				if *update {
					f.Data = []byte(rendered[f.Name])
					continue
				}
				if diff := cmp.Diff(string(f.Data), rendered[f.Name]); diff != "" {
					t.Errorf("%s (-golden +rendered; -update accepts):\n%s", f.Name, diff)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
