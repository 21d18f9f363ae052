package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the repository.
const root = "../.."

// page is one Markdown file.
type page struct {
	path   string // below the repository
	text   string
	blocks []block
}

// block is one fenced block of a page.
type block struct {
	at       string // page:line
	language string
	name     string // of the file that it is; empty: none
	text     string
}

var (
	fence    = regexp.MustCompile("^```([a-z]*)$")
	fileName = regexp.MustCompile("^`([^`]+)`:$")
)

// pages returns all pages.
func pages(t *testing.T) []page {
	t.Helper()
	var all []page
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
func load(t *testing.T, path string) page {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		t.Fatal(err)
	}
	p := page{path: rel, text: string(content)}
	var open *block
	previous := ""
	for i, line := range strings.Split(p.text, "\n") {
		found := fence.FindStringSubmatch(line)
		switch {
		case open == nil && found != nil:
			open = &block{at: fmt.Sprintf("%s:%d", rel, i+1), language: found[1]}
			if name := fileName.FindStringSubmatch(previous); name != nil {
				open.name = name[1]
			}
			previous = ""
		case open != nil && line == "```":
			p.blocks = append(p.blocks, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case line != "":
			previous = line
		}
	}
	if open != nil {
		t.Fatalf("%s: the block does not end", open.at)
	}
	return p
}

// prose is the page without its blocks.
func (p page) prose() string {
	text := p.text
	for _, b := range p.blocks {
		text = strings.Replace(text, b.text, "", 1)
	}
	return text
}

// table returns the cells of the first table below a heading, without its head. It fails the test if there is none.
func (p page) table(t *testing.T, heading string) [][]string {
	t.Helper()
	_, section, ok := strings.Cut(p.text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s: no heading %q", p.path, heading)
	}
	var rows [][]string
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 || strings.HasPrefix(line, "#") {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], `\|`, "|"))
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("%s: no table below %q", p.path, heading)
	}
	return rows[2:]
}

// code returns what stands between backquotes at the beginning of a cell.
func code(cell string) string {
	text, _, _ := strings.Cut(strings.TrimPrefix(cell, "`"), "`")
	return text
}
