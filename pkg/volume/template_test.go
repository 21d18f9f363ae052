package volume_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

// appConf is a volume with a file that is made of two secrets, one of which need not exist.
const appConf = `
- path: conf/app.conf
  mode: 0400
  template: |
    url=postgres://{{ .db.user }}:{{ .db.password | urlquery }}@db
    {{ with .key }}key={{ .value }}{{ end }}
  secrets:
    db: database
    key: {store: s, name: api-key, version: 7, stage: AWSPREVIOUS, namespace: ns, optional: true}
- plain
`

func TestTemplateSources(t *testing.T) {
	spec, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": appConf})
	if err != nil {
		t.Fatal(err)
	}
	want := []volume.Source{
		{As: "db", Ref: scope.Ref{Store: "s", Name: "database"}},
		{As: "key", Ref: scope.Ref{Store: "s", Name: "api-key", Version: "7", Stage: "AWSPREVIOUS", Namespace: "ns"}, Optional: true},
		{Ref: scope.Ref{Store: "s", Name: "plain"}},
	}
	if diff := cmp.Diff(want, spec.Sources()); diff != "" {
		t.Error(diff)
	}
}

func TestTemplateProject(t *testing.T) {
	tests := []struct {
		name    string
		secrets string
		stored  []fields // in the order of the sources: by name within an item
		want    map[string]string
	}{
		{"all secrets", appConf, []fields{{"user": "u", "password": "p/w"}, {"value": "k"}, {"plain": "x"}},
			map[string]string{"conf/app.conf": "url=postgres://u:p%2Fw@db\nkey=k\n", "plain": "x"}},
		{"without the optional one", appConf, []fields{{"user": "u", "password": "p"}, nil, {"plain": "x"}},
			map[string]string{"conf/app.conf": "url=postgres://u:p@db\n\n", "plain": "x"}},
		{"optional file", "[{path: f, optional: true, template: '{{ .a.x }}', secrets: {a: a}}, b]", []fields{nil, {"b": "x"}}, map[string]string{"b": "x"}},
		{"optional file with an optional secret", "[{path: f, optional: true, template: '{{ .a.x }}{{ if .b }}b{{ end }}', secrets: {a: a, b: {name: b, optional: true}}}]",
			[]fields{{"x": "1"}, nil}, map[string]string{"f": "1"}},
		{"delimiters", "[{path: f, delimiters: '[[ ]]', template: '{{ [[ .a.x ]] }}', secrets: {a: a}}]", []fields{{"x": "1"}}, map[string]string{"f": "{{ 1 }}"}},
		{"one secret under two names", "[{path: f, template: '{{ .a.x }}{{ .b.x }}', secrets: {a: s, b: s}}]", []fields{{"x": "1"}, {"x": "1"}}, map[string]string{"f": "11"}},
		{"bytes", "[{path: f, template: '{{ .a.x | b64dec }}', secrets: {a: s}}]", []fields{{"x": "AP8="}}, map[string]string{"f": "\x00\xff"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files, err := project(t, map[string]string{"store": "s", "secrets": tt.secrets}, tt.stored...)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, f := range files {
				got[f.Path] = string(f.Data.Reveal())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTemplateRefuses(t *testing.T) {
	tests := []struct {
		name, secrets string
		want          []string
	}{
		{"syntax", "- path: f\n  template: |\n    a\n    {{ .db.x\n  secrets: {db: db}\n", []string{`volume attribute "secrets" line 2: template "f" line 3: unclosed action started at line 2`}},
		{"function", "[{path: f, template: '{{ env `HOME` }}', secrets: {db: db}}]", []string{`template "f" line 1: function "env" not defined; the functions are and, atoi`}},
		{"secret that is not named", "[{path: f, template: 'x {{ .other.x }}', secrets: {db: db}}]", []string{`template "f" line 1, column 6: there is no secret .other; those of the item are .db`}},
		{"no secrets", "[{path: f, template: x}]", []string{"an item with a template has no secrets; write a map"}},
		{"empty secrets", "[{path: f, template: x, secrets: {}}]", []string{"secrets must be a map from the names in the template"}},
		{"list of secrets", "[{path: f, template: x, secrets: [a]}]", []string{"secrets must be a map from the names in the template"}},
		{"no template", "[{path: f, secrets: {a: a}}]", []string{"an item with secrets has no template"}},
		{"empty template", "[{path: f, template: '', secrets: {a: a}}]", []string{"template must be a text that is not empty"}},
		{"no path", "[{template: x, secrets: {a: a}}]", []string{"an item with a template has no path"}},
		{"members of one secret", "[{path: f, template: x, secrets: {a: a}, name: n, fields: [x], format: json, encoding: base64, version: 1}]",
			[]string{"has no name", "has no version", "has no fields", "has no format", "has no encoding"}},
		{"name that a template can't say", "[{path: f, template: x, secrets: {a-b: a}}]", []string{`name "a-b" in the template must be letters, digits and _`}},
		{"same name twice", "[{path: f, template: x, secrets: {a: a, a: b}}]", []string{`two secrets are named "a"`}},
		{"unknown member", "[{path: f, template: x, secrets: {a: {nam: x}}}]", []string{`secret has an unknown member "nam"; the members are name, namespace, optional, own, parameters, stage, store, version`}},
		{"no name", "[{path: f, template: x, secrets: {a: {store: s}}}]", []string{"template \"f\": its secret .a: it has no name"}},
		{"no store", "[{path: f, store: '', template: x, secrets: {a: {name: x}}}]", []string{"store must be a text"}},
		{"delimiters", "[{path: f, delimiters: '[[', template: x, secrets: {a: a}}]", []string{`delimiters is "[["; it must be two different marks`}},
		{"path that leads out", "[{path: ../f, template: x, secrets: {a: a}}]", []string{`template "../f": path "../f" has an element that starts with ".."`}},
		{"same path", "[{path: f, template: x, secrets: {a: a}}, f]", []string{`template "f" and secret "f" of store "s" both have path "f"`}},
		{"directory", "[{path: ., template: x, secrets: {a: a}}]", []string{`path "." is a directory`}},
		{"too large", "[{path: f, template: " + strings.Repeat("x", 70_000) + ", secrets: {a: a}}]", []string{"the template has 70000 bytes, and 65536 are allowed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": tt.secrets})
			var invalid *volume.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want an *InvalidError", err)
			}
			all := strings.Join(invalid.Problems, "\n")
			for _, want := range tt.want {
				if !strings.Contains(all, want) {
					t.Errorf("%q does not say %q", invalid.Problems, want)
				}
			}
		})
	}
	t.Run("too many secrets", func(t *testing.T) {
		var secrets strings.Builder
		for i := range 1100 {
			fmt.Fprintf(&secrets, "a%d: x, ", i)
		}
		_, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": "[{path: f, template: x, secrets: {" + secrets.String() + "}}]"})
		if err == nil || !strings.Contains(err.Error(), "lists 1100 secrets, and 1024 are allowed") {
			t.Errorf("got %v", err)
		}
	})
}

// TestTemplateErrors executes templates that can't be, and expects no value in what is said of it.
func TestTemplateErrors(t *testing.T) {
	const canary = "c4n4ry"
	for template, want := range map[string]string{
		"{{ .a.y }}":                                 `template "f": line 1, column 4: .a has no "y"`,
		"{{ .a.x | fromJson }}":                      "fromJson: the text is not JSON",
		"{{ .a.x | b64dec }}":                        "b64dec: the text is not base64",
		"{{ lt .a.x 1 }}":                            "lt: a text and a number can't be compared",
		"{{ range 1000000000 }}{{ $.a.x }}{{ end }}": "the template does too much",
	} {
		_, err := project(t, map[string]string{"store": "s", "secrets": "[{path: f, template: '" + template + "', secrets: {a: a}}]"}, fields{"x": canary + "!"})
		var invalid *volume.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an *InvalidError that says %q", template, err, want)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%v holds a value", err)
		}
	}
}

// TestTemplatesShareABudget has many templates that do much.
func TestTemplatesShareABudget(t *testing.T) {
	var items strings.Builder
	var stored []fields
	for i := range 100 {
		fmt.Fprintf(&items, "- {path: f%d, template: '{{ range 10000 }}{{ end }}', secrets: {a: a}}\n", i)
		stored = append(stored, fields{})
	}
	_, err := project(t, map[string]string{"store": "s", "secrets": items.String()}, stored...)
	if err == nil || !strings.Contains(err.Error(), "all templates together") {
		t.Errorf("got %v", err)
	}
}

// TestTemplateIsAuthorised forbids one secret of a template: none is read, and nothing is mounted.
func TestTemplateIsAuthorised(t *testing.T) {
	n := newNode(t)
	n.store.set("database", fields{"user": "u", "password": "p"})
	n.store.set("api-key", fields{"value": "k"})
	n.allow(t, "api-key")
	err := n.Publish(t.Context(), n.request("v", "[{path: f, template: '{{ .a.user }}{{ .b.value }}', secrets: {a: database, b: {name: api-key, optional: true}}}]"))
	var denied *scope.DeniedError
	if !errors.As(err, &denied) || !strings.Contains(err.Error(), `secret "api-key" of store "s"`) {
		t.Errorf("got %v", err)
	}
	if got := n.store.count(); got != 0 {
		t.Errorf("%d secrets were read", got)
	}
	if len(n.denied) != 1 || n.denied[0].Ref.Name != "api-key" {
		t.Errorf("the audit trail has %+v", n.denied)
	}
	n.absent(t, "v")
}

// TestTemplateOptional publishes a template whose secret doesn't exist: with the item optional there is no file until it
// does, and otherwise no volume.
func TestTemplateOptional(t *testing.T) {
	n := newNode(t)
	n.store.set("b", fields{"b": "x"})
	if err := n.Publish(t.Context(), n.request("needed", "[{path: f, template: '{{ .a.x }}', secrets: {a: a}}, b]")); providers.KindOf(err) != providers.NotFound {
		t.Errorf("got %v, want one that is not found", err)
	}
	if err := n.Publish(t.Context(), n.request("v", "[{path: f, optional: true, template: '{{ .a.x }}', secrets: {a: a}}, b]")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"b": "x"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
	n.store.set("a", fields{"x": "1"})
	if _, err := n.Rotate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"b": "x", "f": "1"}, n.files(t, "v")); diff != "" {
		t.Error(diff)
	}
}

// TestTemplateRotates changes each secret of a template; both nudge the volume, and the file follows. The record has no
// value, and an agent that reads it goes on.
func TestTemplateRotates(t *testing.T) {
	n := newNode(t)
	n.store.set("database", fields{"user": "u", "password": "p4ssw0rd"})
	if err := n.Publish(t.Context(), n.request("v", "[{path: f, template: '{{ .a.user }}:{{ .a.password }}{{ with .b }}{{ .value }}{{ end }}', secrets: {a: database, b: {name: api-key, optional: true}}}]")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"database", "api-key", ""} {
		if got := n.Using("s", name); len(got) != 1 {
			t.Errorf("a change of %q nudges %v", name, got)
		}
	}
	if got := n.Using("s", "f"); len(got) != 0 {
		t.Errorf("a change of another secret nudges %v", got)
	}
	if record := n.records(t)["v"]; record == "" || strings.Contains(record, "p4ssw0rd") {
		t.Errorf("the record is %q", record)
	}
	rotate := func(changed bool, want string) {
		t.Helper()
		outcome, err := n.Rotate(t.Context(), "v")
		if err != nil || outcome.Changed != changed {
			t.Errorf("rotated: %+v, %v", outcome, err)
		}
		if got := n.files(t, "v")["f"]; got != want {
			t.Errorf("the file is %q, want %q", got, want)
		}
	}
	rotate(false, "u:p4ssw0rd")
	n.store.set("api-key", fields{"value": "!"})
	rotate(true, "u:p4ssw0rd!")
	n.restart(t)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	rotate(false, "u:p4ssw0rd!")
	n.store.set("database", fields{"user": "u"})
	if _, err := n.Rotate(t.Context(), "v"); err == nil || !strings.Contains(err.Error(), `.a has no "password"`) {
		t.Errorf("got %v", err)
	}
	if got := n.files(t, "v")["f"]; got != "u:p4ssw0rd!" {
		t.Errorf("the file is %q", got)
	}
}
