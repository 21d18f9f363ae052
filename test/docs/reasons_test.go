package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/docpage"
)

var reasonLine = regexp.MustCompile(`(?m)^\treason[A-Z]\w* += "([A-Z_]+)"`)

// TestReasons compares the reasons of errors on the API's page with those in the code.
func TestReasons(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(root, "pkg/api/errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	var inCode, onPage []string
	for _, found := range reasonLine.FindAllStringSubmatch(string(source), -1) {
		inCode = append(inCode, found[1])
	}
	for _, row := range table(t, load(t, filepath.Join(root, "docs/api.md")), "## Errors") {
		onPage = append(onPage, docpage.Code(row[0]))
	}
	slices.Sort(inCode)
	slices.Sort(onPage)
	if diff := cmp.Diff(inCode, onPage); diff != "" {
		t.Errorf("reasons (-code +page):\n%s", diff)
	}
}
