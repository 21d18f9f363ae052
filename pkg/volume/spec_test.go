package volume_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/volume"
)

func TestParseSpec(t *testing.T) {
	item := func(name string) volume.Item {
		return volume.Item{Ref: scope.Ref{Store: "s", Name: name}, Path: name, Format: volume.FormatFiles}
	}
	tests := []struct {
		name       string
		attributes map[string]string
		want       volume.Spec
	}{
		{
			name:       "names",
			attributes: map[string]string{"store": "s", "secrets": " a, b/c ,"},
			want:       volume.Spec{UID: -1, GID: -1, Items: []volume.Item{item("a"), item("b/c")}},
		},
		{
			name: "everything about the volume",
			attributes: map[string]string{
				"store": "s", "secrets": "a", "mode": "0400", "uid": "7", "gid": "0", "format": "json", "size": "64Ki", "refreshInterval": "1m30s",
				"csi.storage.k8s.io/serviceAccount.tokens": "{}", "csi.storage.k8s.io/pod.name": "p",
			},
			want: volume.Spec{Mode: 0o400, UID: 7, GID: 0, Size: 65536, RefreshInterval: 90 * time.Second, Items: []volume.Item{
				{Ref: scope.Ref{Store: "s", Name: "a"}, Path: "a", Format: volume.FormatJSON, Mode: 0o400},
			}},
		},
		{
			name: "everything about an item",
			attributes: map[string]string{"store": "s", "secrets": `
- name: a
  store: other
  version: 1.10
  stage: AWSPREVIOUS
  namespace: ns
  path: dir/a
  mode: 0440
  optional: true
  format: files
  encoding: base64
  parameters: {ttl: 1h, common_name: web.example, empty: ""}
  own: true
  fields:
  - user
  - {name: pass, path: password, mode: 0400, encoding: base64}
`},
			want: volume.Spec{UID: -1, GID: -1, Items: []volume.Item{{
				Ref:  scope.Ref{Store: "other", Name: "a", Version: "1.10", Stage: "AWSPREVIOUS", Namespace: "ns"},
				Path: "dir/a", Mode: 0o440, Optional: true, Format: volume.FormatFiles, Encoding: volume.EncodingBase64,
				Fields:     []volume.Field{{Name: "user"}, {Name: "pass", Path: "password", Mode: 0o400, Encoding: volume.EncodingBase64}},
				Parameters: map[string]string{"ttl": "1h", "common_name": "web.example", "empty": ""}, Own: true,
			}}},
		},
		{
			name:       "list in one line, fields as a map",
			attributes: map[string]string{"store": "s", "secrets": `["a", {name: b, format: dotenv, fields: {x-y: X_Y}}]`},
			want: volume.Spec{UID: -1, GID: -1, Items: []volume.Item{item("a"), {
				Ref: scope.Ref{Store: "s", Name: "b"}, Path: "b", Format: volume.FormatDotenv, Fields: []volume.Field{{Name: "x-y", Path: "X_Y"}},
			}}},
		},
		{
			name:       "several secrets share the volume's own directory",
			attributes: map[string]string{"store": "s", "secrets": "- {name: a, path: .}\n- {name: ../b, path: .}\n"},
			want: volume.Spec{UID: -1, GID: -1, Items: []volume.Item{
				{Ref: scope.Ref{Store: "s", Name: "a"}, Path: ".", Format: volume.FormatFiles},
				{Ref: scope.Ref{Store: "s", Name: "../b"}, Path: ".", Format: volume.FormatFiles},
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := volume.ParseSpec(tt.attributes)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseSpecRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	tests := []struct {
		name       string
		attributes map[string]string
		want       []string // each in one problem, in this order
	}{
		{"nothing", nil, []string{`"secrets" names no secret; list at least one`}},
		{"only commas", map[string]string{"secrets": " , "}, []string{"names no secret"}},
		{"unknown attribute", map[string]string{"secret": "a", "secrets": "a", "store": "s"}, []string{`volume attribute "secret" is unknown; the attributes are store, secrets`}},
		{"no store", map[string]string{"secrets": "a"}, []string{`secret "a" of store "": it has no store; set the volume attribute store`}},
		{"bad values, all of them", map[string]string{"secrets": "a", "store": "s", "mode": "440", "uid": "-1", "gid": "x", "format": "xml", "size": "1.5Mi", "refreshInterval": "1ms"},
			[]string{`"format" is "xml"`, `"gid" is "x"`, `"mode" is "440"; it must be an octal mode with a leading zero`, `"refreshInterval" is "1ms"`, `"size" is "1.5Mi"`, `"uid" is "-1"`}},
		{"mode too large", map[string]string{"secrets": "a", "store": "s", "mode": "04755"}, []string{`"mode" is "04755"`}},
		{"size overflows", map[string]string{"secrets": "a", "store": "s", "size": "9999999999Gi"}, []string{`"size"`}},
		{"not YAML", map[string]string{"secrets": "- a: [\n"}, []string{`volume attribute "secrets" is not YAML`}},
		{"two documents", map[string]string{"secrets": "- a\n---\n- b\n"}, []string{"more than one YAML document"}},
		{"not a list", map[string]string{"secrets": "a: b\nc: d\n"}, []string{"line 1: must be a list"}},
		{"unknown member", map[string]string{"store": "s", "secrets": "- name: a\n- name: b\n  pth: x\n"}, []string{`volume attribute "secrets" line 3: item has an unknown member "pth"; the members are delimiters, encoding, fields, format`}},
		{"repeated member", map[string]string{"store": "s", "secrets": "- name: a\n  name: b\n"}, []string{`line 2: item has two members "name"`}},
		{"unknown member of a field", map[string]string{"store": "s", "secrets": "- name: a\n  fields:\n  - {nam: b}\n"}, []string{`line 3: field has an unknown member "nam"`}},
		{"null", map[string]string{"store": "s", "secrets": "- name:\n"}, []string{"line 1: name must be a text"}},
		{"empty fields", map[string]string{"store": "s", "secrets": "- name: a\n  fields: []\n"}, []string{"line 2: fields must be"}},
		{"alias", map[string]string{"store": "s", "secrets": "- name: &x a\n- name: *x\n"}, []string{"line 2: name must be a text"}},
		{"bad members", map[string]string{"store": "s", "secrets": "- {name: a, mode: 256, optional: maybe, format: F, encoding: hex}"},
			[]string{`line 1: mode is "256"`, `optional is "maybe"`, `format is "F"`, `encoding is "hex"`}},
		{"parameters", map[string]string{"store": "s", "secrets": "- {name: a, parameters: x}\n- {name: b, parameters: {k: [1], n: , t: 1, t: 2}}"},
			[]string{"line 1: parameters must be a map", `parameters "k" must be a text`, `parameters "n" must be a text`, `parameters has two members "t"`}},
		{"same path", map[string]string{"store": "s", "secrets": "a,a"}, []string{`both have path "a"`}},
		{"secret whose name is below another's", map[string]string{"store": "s", "secrets": "a,a/b"}, []string{`needs a directory "a", where secret "a" of store "s" has a file; set path of one of them`}},
		{"same path of two fields", map[string]string{"store": "s", "secrets": "[{name: a, fields: [x, {name: y, path: x}]}]"}, []string{`two fields are named "x"`}},
		{"file where another needs a directory", map[string]string{"store": "s", "secrets": "[{name: a, format: raw}, {name: a/b, format: raw}]"}, []string{`needs a directory "a", where`}},
		{"directory where another has a file", map[string]string{"store": "s", "secrets": "[{name: a/b, format: raw}, {name: a, format: raw}]"}, []string{`needs a directory "a", where`}},
		{"name that is no path", map[string]string{"store": "s", "secrets": "/a,../b,c/,d//e,./f,.," + long}, []string{
			`path "/a" is absolute; set path of the item`, `".."`, "shortest form", "shortest form", "shortest form", `longer than 255 bytes`}},
		{"path too long", map[string]string{"store": "s", "secrets": strings.Repeat("x/", 2048) + "x"}, []string{"longer than 4096"}},
		{"reserved elements", map[string]string{"store": "s", "secrets": "..data,a/..b"}, []string{`".."`, `".."`}},
		{"not text", map[string]string{"store": "s", "secrets": "a\x00b,a\xffb,a\x1bb"}, []string{"not text", "not text", "not text"}},
		{"too many secrets", map[string]string{"store": "s", "secrets": strings.Repeat("/bad,", 1025)}, []string{"lists 1025 secrets, and 1024 are allowed"}},
		{"comments only", map[string]string{"store": "s", "secrets": "#\n#"}, []string{`"secrets"`}},
		{"hostile field paths", map[string]string{"store": "s", "secrets": "[{name: a, path: b, fields: {x: ../../etc/passwd, y: /etc/passwd}}]"}, []string{`field "x": path "../../etc/passwd"`, `field "y"`}},
		{"raw with two fields", map[string]string{"store": "s", "secrets": "[{name: a, format: raw, fields: [x, y]}]"}, []string{"format raw writes one field"}},
		{"raw with a field path", map[string]string{"store": "s", "secrets": "[{name: a, format: raw, fields: {x: y}}]"}, []string{"set path of the item"}},
		{"raw in the volume's directory", map[string]string{"store": "s", "secrets": "[{name: a, format: raw, path: .}]"}, []string{`path "." is a directory`}},
		{"json with a mode per field", map[string]string{"store": "s", "secrets": "[{name: a, format: json, fields: [{name: x, mode: 0400}]}]"}, []string{"only format files has a mode per field"}},
		{"dotenv with a bad variable", map[string]string{"store": "s", "secrets": "[{name: a, format: dotenv, fields: [x-y]}]"}, []string{`"x-y" is not the name of a variable; list the field with a path that is one`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := volume.ParseSpec(tt.attributes)
			var invalid *volume.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want an *InvalidError", err)
			}
			problems := invalid.Problems
			for _, want := range tt.want {
				if len(problems) == 0 || !strings.Contains(problems[0], want) {
					t.Errorf("%q does not say %q", problems, want)
				} else {
					problems = problems[1:]
				}
			}
		})
	}
}

// TestProblemsAreOneShortLine asks for what an event or a log line can't hold.
func TestProblemsAreOneShortLine(t *testing.T) {
	for name, secrets := range map[string]string{
		"many": strings.Repeat("/bad,", 1000),
		"long": "/" + strings.Repeat("é", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": secrets})
			var invalid *volume.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want an *InvalidError", err)
			}
			message := err.Error()
			if len(message) > 6000 || !utf8.ValidString(message) || !strings.Contains(message, "is absolute") && name == "many" {
				t.Errorf("the message has %d bytes: %.200s…", len(message), message)
			}
			if name == "many" && (len(invalid.Problems) != 1000 || !strings.HasSuffix(message, "; and 990 more")) {
				t.Errorf("of %d problems, the message is %s", len(invalid.Problems), message)
			}
		})
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("s", "a,b/c")
	f.Add("s", "- {name: a, path: b, fields: {x: y}}\n- b\n")
	f.Add("", "[{name: a, store: s, format: dotenv, mode: 0400, optional: true}]")
	f.Fuzz(func(t *testing.T, store, secrets string) {
		spec, err := volume.ParseSpec(map[string]string{"store": store, "secrets": secrets})
		if err != nil {
			var invalid *volume.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
				t.Fatalf("the error is %#v", err)
			}
			return
		}
		if len(spec.Items) == 0 {
			t.Error("a volume without items was accepted")
		}
		for _, it := range spec.Items {
			if it.Ref.Name == "" || it.Ref.Store == "" {
				t.Errorf("item %+v was accepted", it)
			}
			if !filepath.IsLocal(it.Path) || filepath.Clean(it.Path) != it.Path || !fs.ValidPath(it.Path) && it.Path != "." {
				t.Errorf("path %q was accepted", it.Path)
			}
		}
	})
}
