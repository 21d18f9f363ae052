// Package bench_test measures the agent beside its floors: what the machine and the bare libraries take for the same
// result, in the same run. TestReport prints the comparison; nothing in it fails for being slow, only for being wrong.
// The parts that run in one process are ordinary Go benchmarks too.
package bench_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// agentVariable names the agent's release binary.
const agentVariable = "KEYWELL_AGENT"

const reportFile = "../../docs/benchmarks.md"

var update = flag.Bool("update", false, "write the figures to docs/benchmarks.md")

func TestMain(m *testing.M) {
	if file := os.Getenv(floorVariable); file != "" {
		if err := serveFloor(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestReport is make bench.
func TestReport(t *testing.T) {
	if os.Getenv(agentVariable) == "" {
		t.Skip(agentVariable + " does not name the agent's binary; make bench sets it")
	}
	var all []section
	for _, s := range []struct {
		title string
		rows  func(*testing.T) []row
	}{
		{"Volumes", reportVolumes},
		{"API", reportAPI},
		{"Memory", reportMemory},
		{"Localhost", reportListeners},
	} {
		t.Run(s.title, func(t *testing.T) { all = append(all, section{s.title, s.rows(t)}) })
	}
	t.Log("\n" + asText(all))
	if *update && !t.Failed() {
		if err := replaceFigures(reportFile, asMarkdown(all)); err != nil {
			t.Fatal(err)
		}
	}
}

// section is a table.
type section struct {
	title string
	rows  []row
}

// row is one line of a table: what was measured, and what beside it.
type row struct {
	name, ours, floor string  // figures with their units; no floor: ""
	ratio             float64 // ours by floor; 0: none
	target            float64 // for the ratio; 0: none
	atLeast           bool    // the ratio should reach the target, rather than stay below it
	limit             string  // a target for ours alone; "": none
	within            bool    // ours is within limit
	allocs, bytes     string  // heap allocations of ours and of the floor
}

var header = []string{"measured", "agent", "floor", "ratio", "target", "", "allocs/op (floor)", "B/op (floor)"}

func (r row) cells() []string {
	ratio, target, verdict := "", "", ""
	if r.ratio != 0 {
		ratio = fmt.Sprintf("%.2f×", r.ratio)
	}
	switch {
	case r.limit != "":
		target, verdict = r.limit, verdictOn(r.within)
	case r.target != 0 && r.atLeast:
		target, verdict = fmt.Sprintf("≥ %.1f×", r.target), verdictOn(r.ratio >= r.target)
	case r.target != 0:
		target, verdict = fmt.Sprintf("≤ %.1f×", r.target), verdictOn(r.ratio <= r.target)
	}
	return []string{r.name, r.ours, r.floor, ratio, target, verdict, r.allocs, r.bytes}
}

func verdictOn(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

// beside shows a figure and that of the floor.
func beside(ours, floor float64) string { return fmt.Sprintf("%.0f (%.0f)", ours, floor) }

func asText(all []section) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range all {
		fmt.Fprintf(w, "%s\n", strings.ToUpper(s.title))
		fmt.Fprintln(w, strings.Join(header, "\t"))
		for _, r := range s.rows {
			fmt.Fprintln(w, strings.Join(r.cells(), "\t"))
		}
		fmt.Fprintln(w)
		_ = w.Flush() // each table has columns of its own
	}
	return b.String()
}

func asMarkdown(all []section) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d processors, Linux %s, %s.\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOARCH, runtime.Version())
	for _, s := range all {
		fmt.Fprintf(&b, "\n### %s\n\n", s.title)
		fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat("---|", len(header)))
		for _, r := range s.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells(), " | "))
		}
	}
	return b.String()
}

// The lines between which the figures are in the report.
const (
	figuresBegin = "<!-- figures: written by go test ./test/bench -update -->\n"
	figuresEnd   = "<!-- end of figures -->\n"
)

// replaceFigures puts figures in the place of those in a file.
func replaceFigures(file, figures string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(content), figuresBegin)
	_, after, ends := strings.Cut(rest, figuresEnd)
	if !begins || !ends {
		return fmt.Errorf("%s does not say where figures go", file)
	}
	return os.WriteFile(file, []byte(before+figuresBegin+"\n"+figures+"\n"+figuresEnd+after), 0o644)
}
