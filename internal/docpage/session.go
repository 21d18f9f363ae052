package docpage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Standalone lists the pages below docs/ whose sessions run on one machine (test/docs).
func Standalone() []string {
	return []string{"configuration.md", "volumes.md", "api.md", "operations.md", "stores/local-file.md", "stores/local-env.md"}
}

// Cluster lists the pages below docs/ whose sessions run in a cluster, in this order (test/e2e).
func Cluster() []string {
	return []string{
		"install.md", "quickstart.md", "tutorial.md", "migrate-from-dapr.md", "migrate-from-secrets-store-csi.md",
		"security.md", "troubleshooting.md",
	}
}

// Step is one command of a session.
type Step struct {
	Command string
	Want    string // what it prints, without the last line feed
}

// Steps returns the commands of a session, in order.
func (b Block) Steps() []Step {
	var steps []Step
	for text := range strings.SplitSeq(strings.TrimPrefix(b.Text, "$ "), "\n$ ") {
		text = strings.ReplaceAll(text, "\\\n", "")
		command, want, _ := strings.Cut(text, "\n")
		steps = append(steps, Step{Command: command, Want: strings.TrimRight(want, "\n")})
	}
	return steps
}

// Background returns the command of a step that runs on while the session does.
func (s Step) Background() (command string, ok bool) { return strings.CutSuffix(s.Command, " &") }

// prints tells whether output is what the page shows.
func (s Step) prints(output string) bool {
	var pattern strings.Builder
	for line := range strings.SplitSeq(s.Want, "\n") {
		if line == "…" {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + `\n`)
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(strings.TrimRight(output, "\n") + "\n")
}

// Session is the state of one page's sessions.
type Session struct {
	Dir      string                      // the working directory
	Command  func(text string) *exec.Cmd // a shell command, in Dir
	Patience time.Duration               // how long to wait for a command to print what the page shows
}

// Write makes the file that a block stands for.
func (s Session) Write(b Block) error {
	path := b.Name
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.Text), 0o644)
}

// Run runs a step's command and compares what it prints. What changes takes its time to show, so the command is repeated
// while it prints something else.
func (s Session) Run(step Step) error {
	var first, last string
	runs := 0
	matches := func() bool {
		out, _ := s.Command(step.Command).CombinedOutput() // a page may show a failure
		last = string(out)
		if runs++; runs == 1 {
			first = last
		}
		return step.prints(last)
	}
	if Eventually(s.Patience, matches) {
		return nil
	}
	err := fmt.Errorf("%s\nprints\n%s\nand not\n%s", step.Command, strings.TrimRight(last, "\n"), step.Want)
	if first != last {
		err = fmt.Errorf("%w\nThe first of %d times it printed\n%s", err, runs, strings.TrimRight(first, "\n"))
	}
	return err
}

// Eventually tries cond until it is true, ten times a second, and reports whether it became so in time.
func Eventually(patience time.Duration, cond func() bool) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		<-tick.C
	}
}
