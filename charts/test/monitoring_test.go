package chart_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promRule is as much of the Prometheus operator's PrometheusRule as the chart uses.
type promRule struct {
	APIVersion, Kind string
	Metadata         struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Spec struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
}

// dashboard is as much of Grafana's model as the test looks at.
type dashboard struct {
	Title, UID string
	Panels     []struct {
		ID      int
		Type    string
		Title   string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name  string
			Query any
		}
	}
}

var (
	metricRow  = regexp.MustCompile("(?m)^\\| `(keywell_[a-z_]+)` \\| (?:`([a-z_`, ]+)`)? *\\|")
	used       = regexp.MustCompile(`\b((?:keywell|process)_[a-z_]+|up)\b(?:{([^}]*)})?`)
	labelName  = regexp.MustCompile(`([a-z_]+) *=`)
	histogram  = regexp.MustCompile(`_(?:bucket|sum|count)$`)
	ofPlatform = []string{"node", "job", "namespace"} // labels that the ServiceMonitor gives every metric
)

// documented returns the agent's metrics and their labels, as docs/operations.md has them; a test of cmd/agent holds that
// page against what an agent registers.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string][]string{"up": nil, "process_cpu_seconds_total": nil, "process_resident_memory_bytes": nil}
	for _, m := range metricRow.FindAllStringSubmatch(string(page), -1) {
		metrics[m[1]] = strings.Split(m[2], "`, `")
	}
	if len(metrics) < 20 {
		t.Fatalf("only %d metrics are documented", len(metrics))
	}
	return metrics
}

// checkExpression fails the test if it names a metric, or a label of it, that there is not.
func checkExpression(t *testing.T, metrics map[string][]string, where, expression string) {
	t.Helper()
	found := used.FindAllStringSubmatch(expression, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric in %s", where, expression)
	}
	for _, m := range found {
		labels, ok := metrics[m[1]]
		if !ok {
			labels, ok = metrics[histogram.ReplaceAllString(m[1], "")]
		}
		if !ok {
			t.Errorf("%s: there is no metric %s", where, m[1])
		}
		for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) && !slices.Contains(ofPlatform, l[1]) {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
}

// TestDashboard: what the dashboard shows is there to be shown.
func TestDashboard(t *testing.T) {
	metrics := documented(t)
	config := decode(t, mustRender(t, valueSets["monitoring"], newest)).dashboard
	if config.Labels["grafana_dashboard"] != "1" {
		t.Errorf("Grafana's sidecar does not find it: %v", config.Labels)
	}
	var d dashboard
	if err := json.Unmarshal([]byte(config.Data["keywell.json"]), &d); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d, %s: has no query, or another's number", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			checkExpression(t, metrics, p.Title, target.Expr)
		}
	}
	if len(ids) < 20 || len(d.Templating.List) != 3 {
		t.Errorf("%d panels, %d variables", len(ids), len(d.Templating.List))
	}
}

// TestAlerts: each alert is about something that there is, says what to do, and is on the page about it (test/docs).
func TestAlerts(t *testing.T) {
	metrics := documented(t)
	rule := decode(t, mustRender(t, "metrics: {prometheusRule: {enabled: true, labels: {release: prometheus}}}", newest)).rule
	if rule.Metadata.Labels["release"] != "prometheus" || len(rule.Spec.Groups) != 1 || len(rule.Spec.Groups[0].Rules) < 5 {
		t.Fatalf("%+v", rule)
	}
	for _, r := range rule.Spec.Groups[0].Rules {
		checkExpression(t, metrics, r.Alert, r.Expr)
		if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s says too little: %+v", r.Alert, r)
		}
		if !strings.Contains(r.Annotations["summary"], "{{ $labels.node }}") {
			t.Errorf("%s does not say of which node: %s", r.Alert, r.Annotations["summary"])
		}
	}
}
