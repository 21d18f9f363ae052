package builtin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/builtin"
)

const docs = "../../../docs/stores"

// TestDrivers checks what the table promises to those who look drivers and properties up in it.
func TestDrivers(t *testing.T) {
	seen := map[string]bool{}
	last := ""
	for _, d := range builtin.Drivers() {
		if seen[d.Type] || d.Type != strings.ToLower(d.Type) || !strings.HasPrefix(d.Type, "secretstores.") || d.Type < last {
			t.Errorf("type %q occurs twice, is out of order or no secret store in lower case", d.Type)
		}
		seen[d.Type], last = true, d.Type
		if d.Open == nil {
			t.Errorf("%s has no Open", d.Type)
		}
		names := map[string]bool{}
		for _, p := range d.Properties {
			for _, name := range append([]string{p.Name}, p.Aliases...) {
				if folded := strings.ToLower(name); names[folded] || name == "" {
					t.Errorf("%s declares the property %q twice", d.Type, name)
				} else {
					names[folded] = true
				}
			}
		}
	}
	if len(seen) == 0 {
		t.Error("there are no drivers")
	}
}

// TestOpenReadsDeclaredProperties opens every driver without properties: the error may name what is required, but never
// a property that the driver reads without declaring it.
func TestOpenReadsDeclaredProperties(t *testing.T) {
	for _, d := range builtin.Drivers() {
		p, err := d.Open(t.Context(), providers.Config{Name: "test", Properties: providers.Properties{}})
		if err == nil {
			p.Close()
			continue
		}
		if providers.KindOf(err) != providers.Invalid || strings.Contains(err.Error(), "not declared") {
			t.Errorf("%s: %v", d.Type, err)
		}
	}
}

// TestDocs checks that every driver has a page with the headings that all share, that names every property, and that
// the index links to it.
func TestDocs(t *testing.T) {
	index := read(t, "README.md")
	for _, d := range builtin.Drivers() {
		name := strings.ReplaceAll(strings.TrimPrefix(d.Type, "secretstores."), ".", "-") + ".md"
		page := read(t, name)
		if !strings.Contains(index, "("+name+")") {
			t.Errorf("the index does not link to %s", name)
		}
		for _, heading := range []string{
			"What it is", "Manifest", "Metadata fields", "Names, fields and versions", "Changes and rotation", "Errors",
			"Differences from Dapr", "Example",
		} {
			if !strings.Contains(page, "\n## "+heading+"\n") {
				t.Errorf("%s lacks the heading %q", name, heading)
			}
		}
		for _, p := range d.Properties {
			for _, field := range append([]string{p.Name}, p.Aliases...) {
				if !strings.Contains(page, "`"+field+"`") {
					t.Errorf("%s does not mention %s", name, field)
				}
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(docs, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
