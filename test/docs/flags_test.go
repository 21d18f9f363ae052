package docs_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/agenttest"
)

var update = flag.Bool("update", false, "rewrite the tables of flags in docs/operations.md")

// binary is the agent, built from this source.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if inNamespace() {
		binary = os.Getenv(namespaceKey)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = agenttest.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

var (
	usageLine   = regexp.MustCompile(`(?m)^Usage: agent ([a-z]+)`)
	commandLine = regexp.MustCompile(`(?m)^  ([a-z]+) +\S`)
	flagLines   = regexp.MustCompile(`(?m)^  -(\S+)(?: (\S+))?\n    \t(.*)$`)
	defaultPart = regexp.MustCompile(`^(.*) \(default (.*)\)$`)
)

// TestFlags compares the tables of flags with what agent COMMAND -h prints.
func TestFlags(t *testing.T) {
	path := filepath.Join(root, "docs/operations.md")
	text := load(t, path).Text
	for _, command := range commands(t) {
		table := flagTable(t, command)
		if table == "" {
			continue
		}
		begin, end := "<!-- flags of "+command+" -->\n", "<!-- end -->"
		before, rest, ok := strings.Cut(text, begin)
		got, after, ended := strings.Cut(rest, end)
		if !ok || !ended {
			t.Errorf("there is no table of the flags of %s", command)
			continue
		}
		if *update {
			text = before + begin + table + end + after
		} else if diff := cmp.Diff(table, got); diff != "" {
			t.Errorf("flags of %s; run with -update (-agent +page):\n%s", command, diff)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// commands returns the names of the agent's commands.
func commands(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command(binary, "help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range commandLine.FindAllStringSubmatch(string(out), -1) {
		names = append(names, found[1])
	}
	if !slices.Contains(names, "run") {
		t.Fatalf("the agent's commands are %v", names)
	}
	return names
}

// help returns what agent COMMAND -h prints, or nothing for a command without flags.
func help(t *testing.T, command string) string {
	t.Helper()
	cmd := exec.Command(binary, command, "-h")
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if !usageLine.Match(out) {
		return ""
	}
	return string(out)
}

func flagTable(t *testing.T, command string) string {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, found := range flagLines.FindAllStringSubmatch(help(t, command), -1) {
		if table.Len() == 0 {
			table.WriteString("| Flag | Default | Meaning |\n|---|---|---|\n")
		}
		name, value, meaning, byDefault := found[1], found[2], found[3], ""
		if parts := defaultPart.FindStringSubmatch(meaning); parts != nil {
			meaning, byDefault = parts[1], strings.Trim(parts[2], `"`)
			if byDefault == host {
				byDefault = "the host's name"
			} else if !strings.Contains(byDefault, " ") {
				byDefault = "`" + byDefault + "`"
			}
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", strings.TrimSpace("--"+name+" "+value), byDefault, meaning)
	}
	return table.String()
}

var shellFlag = regexp.MustCompile(`(?:^|\s)--?([a-zA-Z][a-zA-Z-]*)`)

// TestCommandLines checks that every command line on a page is of a command that there is, with flags that it has.
func TestCommandLines(t *testing.T) {
	known := commands(t)
	lines := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if b.Language != "sh" && b.Language != "console" {
				continue
			}
			for line := range strings.Lines(strings.ReplaceAll(b.Text, "\\\n", "")) {
				_, call, ok := strings.Cut(" "+strings.TrimPrefix(line, "$"), " agent ")
				if !ok || b.Language == "console" && !strings.HasPrefix(line, "$") {
					continue
				}
				lines++
				command, rest, _ := strings.Cut(strings.TrimSpace(call), " ")
				if !slices.Contains(known, command) {
					t.Errorf("%s: there is no agent %s", b.At, command)
					continue
				}
				rest, _, _ = strings.Cut(rest, "#")
				for _, found := range shellFlag.FindAllStringSubmatch(rest, -1) {
					if !strings.Contains(help(t, command), "\n  -"+found[1]+" ") && !strings.Contains(help(t, command), "\n  -"+found[1]+"\n") {
						t.Errorf("%s: agent %s has no flag %s", b.At, command, found[1])
					}
				}
			}
		}
	}
	if lines == 0 {
		t.Error("no page has a command line of the agent")
	}
}
