package docpage

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Page is one Markdown file.
type Page struct {
	Path   string // below the repository
	Text   string
	Blocks []Block
}

// Block is one fenced block of a page.
type Block struct {
	At       string // page:line
	Language string
	Name     string // of the file that it is; empty: none
	Text     string
}

var (
	fence    = regexp.MustCompile("^```([a-z]*)$")
	fileName = regexp.MustCompile("^`([^`]+)`:$")
)

// Load reads the page at path, which is relative to the repository at root.
func Load(root, path string) (Page, error) {
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return Page{}, err
	}
	p := Page{Path: path, Text: string(content)}
	var open *Block
	previous := ""
	for i, line := range strings.Split(p.Text, "\n") {
		found := fence.FindStringSubmatch(line)
		switch {
		case open == nil && found != nil:
			open = &Block{At: fmt.Sprintf("%s:%d", path, i+1), Language: found[1]}
			if name := fileName.FindStringSubmatch(previous); name != nil {
				open.Name = name[1]
			}
			previous = ""
		case open != nil && line == "```":
			p.Blocks = append(p.Blocks, *open)
			open = nil
		case open != nil:
			open.Text += line + "\n"
		case line != "":
			previous = line
		}
	}
	if open != nil {
		return p, fmt.Errorf("%s: the block does not end", open.At)
	}
	return p, nil
}

// Prose is the page without its blocks.
func (p Page) Prose() string {
	text := p.Text
	for _, b := range p.Blocks {
		text = strings.Replace(text, b.Text, "", 1)
	}
	return text
}

// Table returns the cells of the first table below a heading, without its head.
func (p Page) Table(heading string) ([][]string, error) {
	_, section, ok := strings.Cut(p.Text, "\n"+heading+"\n")
	if !ok {
		return nil, fmt.Errorf("%s: no heading %q", p.Path, heading)
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
		return nil, fmt.Errorf("%s: no table below %q", p.Path, heading)
	}
	return rows[2:], nil
}

// Code returns what stands between backquotes at the beginning of a cell.
func Code(cell string) string {
	text, _, _ := strings.Cut(strings.TrimPrefix(cell, "`"), "`")
	return text
}
