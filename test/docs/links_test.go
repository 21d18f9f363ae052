package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keywell/keywell/internal/docpage"
)

var (
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestLinks checks that every link within the repository leads to a file, and to a heading if it names one.
func TestLinks(t *testing.T) {
	for _, p := range pages(t) {
		for _, found := range link.FindAllStringSubmatch(p.Prose(), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			target, anchor, _ := strings.Cut(found[1], "#")
			path := filepath.Join(root, filepath.Dir(p.Path), target)
			if target == "" {
				path = filepath.Join(root, p.Path)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: the link %s leads nowhere", p.Path, found[1])
				continue
			}
			if anchor != "" && !anchors(load(t, path))[anchor] {
				t.Errorf("%s: the link %s leads to no heading", p.Path, found[1])
			}
		}
	}
}

// anchors returns the anchors of a page's headings, as GitHub makes them.
func anchors(p docpage.Page) map[string]bool {
	all := map[string]bool{}
	for _, found := range heading.FindAllStringSubmatch(p.Prose(), -1) {
		all[strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(found[1]), ""), " ", "-")] = true
	}
	return all
}
