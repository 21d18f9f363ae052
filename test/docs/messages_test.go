package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// An expression for what is logged at a level that may be a warning or an error.
	loggedLine = regexp.MustCompile(`(?i)log(?:ger)?(?:\(\))?\.(?:(?:Warn|Error)\(|(?:Log|LogAttrs)\([^,"]+, (?:slog\.Level(?:Warn|Error)|level), )"([^"]+)"`)
	eventLine  = regexp.MustCompile(`(?m)^\t\w+ +Reason += "(\w+)"`)
	alertLine  = regexp.MustCompile(`(?m)^ *- alert: (\w+)`)
)

// TestTroubleshooting: whoever meets a warning, an error, an event or an alert finds it on the page.
func TestTroubleshooting(t *testing.T) {
	page := load(t, filepath.Join(root, "docs/troubleshooting.md")).Text
	for what, found := range map[string][]string{
		"log message": inSources(t, loggedLine, "pkg", "cmd"),
		"event":       inSources(t, eventLine, "pkg/kube"),
		"alert":       inSources(t, alertLine, "charts/keywell/templates"),
	} {
		if len(found) < 4 {
			t.Errorf("only these are found of kind %s: %q", what, found)
		}
		for _, text := range found {
			if !strings.Contains(page, "`"+strings.TrimSpace(text)+"`") {
				t.Errorf("docs/troubleshooting.md does not explain the %s %q", what, text)
			}
		}
	}
}

// inSources returns what expression finds in the product's files below directories of the repository.
func inSources(t *testing.T, expression *regexp.Regexp, directories ...string) []string {
	t.Helper()
	var all []string
	for _, dir := range directories {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, found := range expression.FindAllStringSubmatch(string(source), -1) {
				all = append(all, found[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}
