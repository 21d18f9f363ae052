package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	metricOf  = regexp.MustCompile(`fqName: "(keywell_[a-z_]+)".*variableLabels: {([a-z_,]*)}`)
	metricRow = regexp.MustCompile("(?m)^\\| `(keywell_[a-z_]+)` \\| (?:`([a-z_`, ]+)`)? *\\|")
)

// TestMetricsAreDocumented compares the metrics that an agent registers, with their labels, with the tables of
// docs/operations.md.
func TestMetricsAreDocumented(t *testing.T) {
	a := onNode(t)
	described := make(chan *prometheus.Desc)
	go func() {
		a.registry.Describe(described)
		close(described)
	}()
	var registered []string
	for d := range described {
		if m := metricOf.FindStringSubmatch(d.String()); m != nil {
			registered = append(registered, m[1]+" "+sorted(strings.Split(m[2], ",")))
		}
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range metricRow.FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1]+" "+sorted(strings.Split(m[2], "`, `")))
	}
	slices.Sort(registered)
	slices.Sort(documented)
	if diff := cmp.Diff(registered, documented); diff != "" {
		t.Errorf("metrics (-agent +page):\n%s", diff)
	}
}

func sorted(labels []string) string {
	slices.Sort(labels)
	return strings.Join(labels, ",")
}
