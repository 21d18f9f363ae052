package volume_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

type fields map[string]string

func (f fields) payload() *providers.Payload {
	if f == nil {
		return nil
	}
	p := &providers.Payload{Fields: map[string]secret.Value{}}
	for name, value := range f {
		p.Fields[name] = secret.FromString(value)
	}
	return p
}

// project parses attributes and projects what the store returned for each item.
func project(t *testing.T, attributes map[string]string, stored ...fields) ([]volume.File, error) {
	t.Helper()
	spec, err := volume.ParseSpec(attributes)
	if err != nil {
		t.Fatal(err)
	}
	var payloads []*providers.Payload
	for _, f := range stored {
		payloads = append(payloads, f.payload())
	}
	return spec.Project(payloads)
}

func TestProject(t *testing.T) {
	tests := []struct {
		name    string
		secrets string
		extra   map[string]string
		stored  []fields
		want    map[string]string // path → mode and content
	}{
		{"single value is one file", "a/b", nil, []fields{{"a/b": "x"}}, map[string]string{"a/b": "444 x"}},
		{"fields are files", "a", nil, []fields{{"u": "1", "p": "2"}}, map[string]string{"a/u": "444 1", "a/p": "444 2"}},
		{"one field with another name stays a directory", "a", nil, []fields{{"u": "1"}}, map[string]string{"a/u": "444 1"}},
		{"field named as the secret beside others", "a", nil, []fields{{"a": "1", "b": "2"}}, map[string]string{"a/a": "444 1", "a/b": "444 2"}},
		{"no fields", "a,b", nil, []fields{{}, {"b": "x"}}, map[string]string{"b": "444 x"}},
		{"own directory", "[{name: a, path: .}, {name: b, path: .}]", nil, []fields{{"a": "1"}, {"c": "2"}}, map[string]string{"a": "444 1", "c": "444 2"}},
		{"listed fields", "[{name: a, path: d, fields: [{name: u, mode: 0400}, {name: p, path: sub/p}]}]", nil, []fields{{"u": "1", "p": "2", "no": "3"}},
			map[string]string{"d/u": "400 1", "d/sub/p": "444 2"}},
		{"listed field named as the secret", "[{name: a, path: d, fields: [a]}]", nil, []fields{{"a": "1", "b": "2"}}, map[string]string{"d": "444 1"}},
		{"listed field named as the secret with a path", "[{name: a, path: d, fields: {a: b}}]", nil, []fields{{"a": "1"}}, map[string]string{"d/b": "444 1"}},
		{"group", "a", map[string]string{"gid": "5"}, []fields{{"a": "x"}}, map[string]string{"a": "440 x"}},
		{"mode of the volume", "[a, {name: b, mode: 0600}]", map[string]string{"mode": "0400"}, []fields{{"a": "x"}, {"b": "y"}}, map[string]string{"a": "400 x", "b": "600 y"}},
		{"optional secret", "[{name: a, optional: true}, b]", nil, []fields{nil, {"b": "x"}}, map[string]string{"b": "444 x"}},
		{"optional field", "[{name: a, optional: true, fields: [x, y]}]", nil, []fields{{"y": "1"}}, map[string]string{"a/y": "444 1"}},
		{"optional field does not move what is left", "[{name: a, optional: true, fields: [a, y]}]", nil, []fields{{"a": "1"}}, map[string]string{"a/a": "444 1"}},
		{"raw", "[{name: a, format: raw, path: f}]", nil, []fields{{"u": "1\x00\n"}}, map[string]string{"f": "444 1\x00\n"}},
		{"raw of a listed field", "[{name: a, format: raw, fields: [u]}]", nil, []fields{{"u": "1", "p": "2"}}, map[string]string{"a": "444 1"}},
		{"raw of a missing optional field", "[{name: a, format: raw, fields: [u], optional: true}]", nil, []fields{{"p": "2"}}, map[string]string{}},
		{"json", "a", map[string]string{"format": "json"}, []fields{{"z": "<&>", "a": "\"\n"}}, map[string]string{"a": `444 {"a":"\"\n","z":"<&>"}` + "\n"}},
		{"json keys", "[{name: a, format: json, fields: {u: user name}}]", nil, []fields{{"u": "1", "p": "2"}}, map[string]string{"a": `444 {"user name":"1"}` + "\n"}},
		{"dotenv", "a", map[string]string{"format": "dotenv"}, []fields{{"B": "it's $x", "A": "$x `y` \\z \"q\""}}, map[string]string{"a": "444 A='$x `y` \\z \"q\"'\nB=\"it's \\$x\"\n"}},
		{"base64", "[{name: a, encoding: base64}, {name: b, fields: [x, {name: y, encoding: base64}]}]", nil, []fields{{"a": " AP\n8= \n"}, {"x": "AP8", "y": "AP8"}},
			map[string]string{"a": "444 \x00\xff", "b/x": "444 AP8", "b/y": "444 \x00\xff"}},
		{"base64 in json", "[{name: a, format: json, encoding: base64}]", nil, []fields{{"x": "aGk="}}, map[string]string{"a": "444 {\"x\":\"hi\"}\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attributes := map[string]string{"store": "s", "secrets": tt.secrets}
			for k, v := range tt.extra {
				attributes[k] = v
			}
			files, err := project(t, attributes, tt.stored...)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, f := range files {
				got[f.Path] = strings.TrimLeft(f.Mode.String(), "-") + " " + string(f.Data.Reveal())
			}
			for path, text := range tt.want {
				mode, data, _ := strings.Cut(text, " ")
				tt.want[path] = strings.TrimLeft(modeOf(mode).String(), "-") + " " + data
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProjectRefuses(t *testing.T) {
	const canary = "c4n4ry"
	tests := []struct {
		name    string
		secrets string
		stored  []fields
		want    string
	}{
		{"field that leads out", "a", []fields{{"../x": canary}}, `field "../x": path "../x" has an element that starts with ".."; list the field with another path`},
		{"absolute field", "a", []fields{{"/etc/passwd": canary}}, "is absolute"},
		{"field with a control character", "a", []fields{{"x\n": canary}}, "not text"},
		{"empty field name", "a", []fields{{"": canary}}, "is empty"},
		{"fields that clash", "a", []fields{{"x": canary, "x/y": canary}}, `needs a directory "a/x"`},
		{"secrets that clash", "[{name: a, path: .}, {name: b, path: .}]", []fields{{"x": canary}, {"x": canary}}, `both have path "x"`},
		{"single value where another has a directory", "[{name: a, path: .}, {name: b, path: x/y}]", []fields{{"x": canary}, {"b": canary}}, `needs a directory "x"`},
		{"raw of several fields", "[{name: a, format: raw}]", []fields{{"x": canary, "y": canary}}, "format raw writes one field, and the secret has 2"},
		{"json of bytes", "[{name: a, format: json}]", []fields{{"x": canary + "\xff"}}, `field "x": value is not text`},
		{"json of a key that is not text", "[{name: a, format: json}]", []fields{{"x\xff": canary}}, "is not text"},
		{"json of decoded bytes", "[{name: a, format: json, encoding: base64}]", []fields{{"x": "/w=="}}, "value is not text"},
		{"dotenv variable", "[{name: a, format: dotenv}]", []fields{{"1x": canary}}, `"1x" is not the name of a variable`},
		{"dotenv NUL", "[{name: a, format: dotenv}]", []fields{{"x": canary + "\x00"}}, "can't be written"},
		{"dotenv carriage return", "[{name: a, format: dotenv}]", []fields{{"x": canary + "\r\n"}}, "can't be written"},
		{"dotenv final backslash", "[{name: a, format: dotenv}]", []fields{{"x": canary + `\`}}, "can't be written"},
		{"dotenv both quotes", "[{name: a, format: dotenv}]", []fields{{"x": canary + `'"`}}, "can't be written"},
		{"dotenv single quote and backquote", "[{name: a, format: dotenv}]", []fields{{"x": canary + "'`"}}, "can't be written"},
		{"not base64", "[{name: a, encoding: base64}]", []fields{{"a": canary + "!"}}, "value is not base64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := project(t, map[string]string{"store": "s", "secrets": tt.secrets}, tt.stored...)
			var invalid *volume.InvalidError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an *InvalidError that says %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("%v holds a value", err)
			}
		})
	}
	t.Run("missing field", func(t *testing.T) {
		_, err := project(t, map[string]string{"store": "s", "secrets": "[{name: a, fields: [x, y]}]"}, fields{"x": canary})
		if providers.KindOf(err) != providers.NotFound || err.Error() != `secret "a" of store "s": it has no field "y"` {
			t.Errorf("got %v", err)
		}
	})
}

// FuzzFieldNames gives a volume the field names that a hostile store could return.
func FuzzFieldNames(f *testing.F) {
	f.Add("a", "b/c")
	f.Add("../x", "..data")
	f.Fuzz(func(t *testing.T, one, two string) {
		spec, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": "[{name: secret, path: .}]"})
		if err != nil {
			t.Fatal(err)
		}
		files, err := spec.Project([]*providers.Payload{fields{one: "1", two: "2"}.payload()})
		if err != nil {
			return
		}
		for _, f := range files {
			if !filepath.IsLocal(f.Path) || strings.HasPrefix(f.Path, "..") || strings.ContainsRune(f.Path, 0) {
				t.Errorf("field names %q and %q make path %q", one, two, f.Path)
			}
		}
	})
}

// FuzzDotenv writes values and reads them back with a shell.
func FuzzDotenv(f *testing.F) {
	for _, s := range []string{"", "plain", "$HOME `id` \"q\" \\ #x", "it's $HOME `id` \"q\" \\n x", "'", "''\"x", "\n\n", "a\nB=c\n", " lead", "é'", `\'x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		spec, err := volume.ParseSpec(map[string]string{"store": "s", "secrets": "a", "format": "dotenv"})
		if err != nil {
			t.Fatal(err)
		}
		files, err := spec.Project([]*providers.Payload{fields{"KEY": value}.payload()})
		if err != nil {
			t.Skip("refused")
		}
		cmd := exec.Command("sh", "-c", `eval "$(cat; echo x)" 2>/dev/null; printf %s "$KEY"`)
		cmd.Stdin = strings.NewReader(string(files[0].Data.Reveal()) + "#")
		got, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != value {
			t.Errorf("%q came back as %q", value, got)
		}
	})
}
