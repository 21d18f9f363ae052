package docpage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/docpage"
)

const text = "# Page\n\nProse.\n\n`conf/a.json`:\n\n```json\n{}\n```\n\n" +
	"```console\n$ echo a\\\n b\na b\n$ sleep 1 &\n```\n\n## Table\n\n| Name | Meaning |\n|---|---|\n| `x` | a \\| b |\n"

func load(t *testing.T, text string) (docpage.Page, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "page.md"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return docpage.Load(dir, "page.md")
}

func TestPage(t *testing.T) {
	p, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	want := []docpage.Block{
		{At: "page.md:7", Language: "json", Name: "conf/a.json", Text: "{}\n"},
		{At: "page.md:11", Language: "console", Text: "$ echo a\\\n b\na b\n$ sleep 1 &\n"},
	}
	if diff := cmp.Diff(want, p.Blocks); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	steps := p.Blocks[1].Steps()
	if diff := cmp.Diff([]docpage.Step{{Command: "echo a b", Want: "a b"}, {Command: "sleep 1 &"}}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if command, ok := steps[1].Background(); command != "sleep 1" || !ok {
		t.Errorf("the command in the background is %q, %t", command, ok)
	}
	rows, err := p.Table("## Table")
	if diff := cmp.Diff([][]string{{"`x`", "a | b"}}, rows); diff != "" || err != nil || docpage.Code(rows[0][0]) != "x" {
		t.Errorf("%v, rows (-want +got):\n%s", err, diff)
	}
	if _, err := p.Table("## Nothing"); err == nil {
		t.Error("a table is found below no heading")
	}
	if strings.Contains(p.Prose(), "echo") {
		t.Errorf("the prose has the session: %s", p.Prose())
	}
	if _, err := load(t, "```sh\nx\n"); err == nil {
		t.Error("a block need not end")
	}
}

func TestRun(t *testing.T) {
	for _, test := range []struct{ name, output, want, err string }{
		{"the same", `a\nb\n`, "a\nb", ""},
		{"nothing", ``, "", ""},
		{"any text on a line", `a 1 b\n`, "a … b", ""},
		{"not on two", `a\nb\n`, "a…b", "prints\na\nb\nand not\na…b"},
		{"any lines", `a\n1\n2\nb\n`, "a\n…\nb", ""},
		{"no lines are some too", `a\nb\n`, "a\n…\nb", ""},
		{"lines to the end", `a\n1\n`, "a\n…", ""},
		{"more than that", `a\nb\n`, "a", "prints"},
		{"pattern characters", `a+(b)\n`, "a+(b)", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := docpage.Session{Command: func(text string) *exec.Cmd { return exec.Command("printf", test.output) }}
			err := s.Run(docpage.Step{Command: "x", Want: test.want})
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
}
