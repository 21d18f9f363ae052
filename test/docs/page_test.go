package docs_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/internal/docpage"
)

// root is the repository.
const root = "../.."

// pages returns all pages.
func pages(t *testing.T) []docpage.Page {
	t.Helper()
	var all []docpage.Page
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "node_modules" || d.Name() != ".." && strings.HasPrefix(d.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".md" {
			all = append(all, load(t, path))
		}
		return err
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("%d pages found: %v", len(all), err)
	}
	return all
}

// load reads a page, whose path is relative to this package.
func load(t *testing.T, path string) docpage.Page {
	t.Helper()
	rel, err := filepath.Rel(root, path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := docpage.Load(root, rel)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// table returns the cells of the first table below a heading of a page.
func table(t *testing.T, p docpage.Page, heading string) [][]string {
	t.Helper()
	rows, err := p.Table(heading)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
