package template_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	texttemplate "text/template"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/template"
)

// stored is what the templates of these tests are over. The secret none does not exist.
var stored = map[string]map[string]string{
	"db":   {"user": "shop", "password": `it's <$ecret> "&"`, "port": "5432", "empty": "", "tls.crt": "PEM\nlines\n"},
	"json": {"doc": `{"hosts": ["a", "b", "c"], "port": 5432, "big": 12345678901234567890, "ratio": 1.50, "on": true, "off": false, "nothing": null, "deep": {"x": {"y": "z"}}}`},
	"none": nil,
}

func values() map[string]map[string]secret.Value {
	all := map[string]map[string]secret.Value{}
	for name, fields := range stored {
		if all[name] = nil; fields == nil {
			continue
		}
		all[name] = map[string]secret.Value{}
		for field, value := range fields {
			all[name][field] = secret.FromString(value)
		}
	}
	return all
}

// render parses and executes a template.
func render(text string) (string, error) {
	t, err := template.Parse(text, template.Delims{}, slices.Sorted(maps.Keys(stored)))
	if err != nil {
		return "", err
	}
	out, err := t.Execute(values(), template.NewBudget())
	return string(out.Reveal()), err
}

// reference renders with the standard library's text/template.
func reference(text string) (string, error) {
	t, err := texttemplate.New("").Option("missingkey=error").Funcs(template.Functions()).Parse(text)
	if err != nil {
		return "", err
	}
	data := map[string]any{}
	for name, fields := range stored {
		if data[name] = nil; fields == nil {
			continue
		}
		m := map[string]any{}
		for field, value := range fields {
			m[field] = value
		}
		data[name] = m
	}
	var out strings.Builder
	err = t.Execute(&out, data)
	return out.String(), err
}

// same are templates that mean here what they mean to text/template.
var same = []string{
	"", "plain text", "{{/* a comment */}}", "a {{- 1 -}} b", "{{ .db.user }}:{{ $.db.password }}",
	`{{ "text" }} {{ 'a' }} {{ 1 }} {{ 1.0 }} {{ 1e3 }} {{ 0x10 }} {{ true }} {{ ` + "`raw`" + ` }} {{ 1_000 }} {{ -5 }} {{ 0x1p4 }}`,
	"{{ if .db.user }}yes{{ else }}no{{ end }}", "{{ if .db.empty }}yes{{ else }}no{{ end }}", "{{ if .none }}yes{{ else }}no{{ end }}",
	"{{ if eq .db.user `x` }}1{{ else if eq .db.user `shop` }}2{{ else }}3{{ end }}",
	"{{ with .db }}{{ .user }}{{ end }}", "{{ with .none }}{{ .user }}{{ else }}none{{ end }}", "{{ with .none }}1{{ else with .db }}{{ .port }}{{ end }}",
	"{{ with $x := .db.user }}{{ $x }}{{ . }}{{ end }}",
	"{{ range $k, $v := .db }}{{ $k }}={{ $v }};{{ end }}", "{{ range .db }}[{{ . }}]{{ end }}", "{{ range .none }}x{{ else }}none{{ end }}",
	"{{ range 3 }}{{ . }}{{ end }}", "{{ range $i := 3 }}{{ $i }}{{ end }}", "{{ range 0 }}x{{ else }}none{{ end }}",
	"{{ range $i, $h := (fromJson .json.doc).hosts }}{{ if $i }},{{ end }}{{ $h }}{{ end }}",
	"{{ range (fromJson .json.doc).hosts }}{{ if eq . `b` }}{{ break }}{{ end }}{{ . }}{{ end }}",
	"{{ range (fromJson .json.doc).hosts }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}{{ end }}",
	"{{ range $i, $x := list 1 2 }}{{ range $j := list 3 4 }}{{ if eq $j 4 }}{{ break }}{{ end }}{{ $i }}{{ $x }}{{ $j }} {{ end }}{{ end }}",
	"{{ $x := 1 }}{{ range list 5 6 }}{{ $x = . }}{{ end }}{{ $x }}", "{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}",
	"{{ $i := 0 }}{{ $e := 0 }}{{ range $i, $e = list 7 8 }}{{ end }}{{ $i }}{{ $e }}", "{{ $e := 0 }}{{ range $e = list 7 8 }}{{ $e }}{{ end }}{{ $e }}",
	"{{ $d := fromJson .json.doc }}{{ $d.port }} {{ $d.ratio }} {{ $d.on }} {{ $d.off }} {{ $d.deep.x.y }} {{ $d.big }}",
	"{{ fromJson .json.doc }}", "{{ (fromJson .json.doc).deep }}", "{{ (index (fromJson .json.doc) `deep` `x`).y }}",
	`{{ define "t" }}[{{ . }}{{ $ }}]{{ end }}{{ template "t" .db.user }}{{ template "t" 1 }}`, `{{ block "b" .db }}{{ .user }}{{ end }}`,
	`{{ define "r" }}{{ if gt (len .) 0 }}{{ slice . 0 1 }}-{{ template "r" (slice . 1) }}{{ end }}{{ end }}{{ template "r" "abc" }}`,
	`{{ define "none" }}{{ if . }}x{{ else }}no dot{{ end }}{{ end }}{{ template "none" }}`,
	"{{ and 1 0 }} {{ and 1 2 }} {{ or 0 `` }} {{ or 0 3 }} {{ not 0 }} {{ not .db }} {{ 0 | or 5 }} {{ 7 | and 1 }} {{ or .db.user .db.nothing }}",
	"{{ eq 1 1 }} {{ eq 1 2 3 1 }} {{ eq .none nil }} {{ eq nil nil }} {{ eq .db nil }} {{ ne 1 2 }} {{ eq 1.5 1.5 }} {{ eq true false }}",
	"{{ lt 1 2 }} {{ le 2 2 }} {{ gt 2.5 1.0 }} {{ ge `b` `a` }} {{ lt `a` `a` }} {{ gt 1 1 }} {{ ge 1 1 }} {{ le `b` `a` }}",
	"{{ index .db `tls.crt` }} {{ index (list 1 2) 1 }} {{ index `abc` 1 }} {{ index .db }}", "{{ if index .db `nothing` }}x{{ else }}y{{ end }}",
	"{{ slice `abcd` 1 3 }} {{ slice `abc` }} {{ slice (list 1 2 3) 1 }} {{ slice `abc` 3 }} {{ len `abc` }} {{ len (list 1 2) }} {{ len .db }}",
	"{{ print 1 2 `a` `b` 3 }} {{ println 1 `x` }} {{ printf `%s-%05d-%q-%v-%x-%.2f-%%` .db.user 42 `q` true `hex` 3.14159 }}", "{{ printf `%d %s` 1 }}",
	"{{ printf `%v %v` (list 1 `a` nil) (dict `k` 1) }}", "{{ `x` | printf `%s:%s` `y` }}", "{{ .db.user | printf `%-8s|` }}",
	"{{ html .db.password }} {{ urlquery .db.password }} {{ html 1 2 }} {{ `<` | html }}", "{{ print nil }}{{ print .none }}",
	"{{ .db.user | b64enc | b64dec | quote }}", "{{ .db.password | toJson }}", "{{ dict `b` 1 `a` (list 1 2.5 true nil) | toJson }}", "{{ toPrettyJson .db }}",
	"{{ list | len }}{{ dict | len }}{{ list }}", "{{ .db.nothing2 | default `x` | html }}{{ end }}", "{{ (.db).user }}{{ ($.db).port }}", "{{ $ | len }}",
	"{{ $x := .db }}{{ $x.user }}", "{{ . | len }}", "{{ 1 | print 2 }}", "{{ (1) }}", "{{ (print 1 | printf `%s!`) }}", "{{- /* c */ -}} x", "{{ if and .db.user (eq .db.port `5432`) }}ok{{ end }}",
	"{{ range $k, $v := fromJson .json.doc }}{{ $k }} {{ end }}", "{{ with .db.user }}{{ . }}{{ $.db.port }}{{ end }}", "{{ printf `%t %c %U %o %b %e` true 65 65 8 5 1.5 }}", "{{ len nil }}",
	"{{ .db.user.more }}", "{{ .db.user 1 }}", "{{ .db.nothing }}", "{{ .none.x }}", "{{ nil }}", "{{ 1 2 }}", "{{ .db | eq 1 }}", "{{ lt 1 1.5 }}", "{{ lt true false }}",
	"{{ index .db 1 }}", "{{ index `abc` 5 }}", "{{ index nil }}", "{{ slice `abc` 2 1 }}", "{{ slice 1 }}", "{{ len 1 }}", "{{ range `text` }}{{ end }}", "{{ range $i, $e := 3 }}{{ end }}",
	"{{ eq 1 }}", "{{ eq 1 `1` }}", "{{ not }}", "{{ index }}", "{{ nil.x }}", "{{ (nil).x }}", "{{ eq (list 1) (list 1) }}", "{{ printf }}", "{{ printf 1 }}", "{{ and }}", "{{ range true }}{{ end }}",
	"{{ $x := nil }}", "{{ $x = 1 }}", "{{ $x := $x }}", "{{ range $x = list 1 }}{{ end }}", "{{ if nil }}{{ end }}", "{{ .db.user | .db.port }}", "{{ `x` | 1 }}", "{{ slice `abc` 1 2 3 }}", "{{ slice nil }}", "{{ html }}", "{{ print }}", "{{ 99999999999999999999 }}",
}

// TestSameAsTextTemplate renders with both, and expects the same text or two errors.
func TestSameAsTextTemplate(t *testing.T) {
	failed := 0
	for _, text := range same {
		want, wantErr := reference(text)
		got, err := render(text)
		if wantErr != nil {
			failed++
		}
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: error is %v, and text/template's %v", text, err, wantErr)
		} else if err == nil && got != want {
			t.Errorf("%s: %s", text, cmp.Diff(want, got))
		}
	}
	if failed < 20 || failed > len(same)/2 {
		t.Errorf("%d of %d templates fail; the table is not what it was", failed, len(same))
	}
}

func TestFunctions(t *testing.T) {
	tests := []struct{ text, want string }{
		{`{{ "aGk=" | b64dec }}{{ "aGk" | base64Decode }}{{ "aG\nk=" | b64dec }}`, "hihihi"},
		{`{{ "hi" | base64Encode }} {{ ">>??" | base64URLEncode }} {{ "Pj4_Pw" | base64URLDecode }}`, "aGk= Pj4_Pw== >>??"},
		{`{{ (parseJSON .json.doc).big }} {{ (fromJson "1.10") }} {{ fromJson "[1]" | toJSON }}`, "12345678901234567890 1.1 [1]"},
		{`{{ toJSONPretty (dict "a" "<") }}`, "{\n  \"a\": \"<\"\n}"},
		{`{{ "a\nb" | indent 2 }}|{{ "a\nb" | nindent 2 }}`, "  a\n  b|\n  a\n  b"},
		{`{{ "AbC" | lower }}{{ "AbC" | toUpper }}{{ " x " | trim }}{{ "x" | squote }}{{ "a\"b" | quote }}`, `abcABCx'x'"a\"b"`},
		{`{{ "x" | sha256sum }}`, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
		{`{{ trimPrefix "a" "abc" }} {{ "abc" | trimSuffix "c" }} {{ trimAll "/" "/x/" }} {{ "abc" | contains "b" }} {{ hasPrefix "a" "abc" }} {{ hasSuffix "x" "abc" }}`, "bc ab x true true false"},
		{`{{ replace "a" "bb" "aXa" }} {{ join "," (splitList ":" "a:b:c") }} {{ join "-" (list 1 true "x") }} {{ split "," "a,b" | len }}`, "bbXbb a,b,c 1-true-x 2"},
		{`{{ add1 }}`, ""},
		{`{{ default "d" .db.empty }} {{ index .db "nothing" | default "d" }} {{ .db.user | default "d" }} {{ ternary "y" "n" true }}`, "d d shop y"},
		{`{{ keys .db | join "," }} {{ hasKey .db "user" }} {{ hasKey .db "x" }} {{ atoi .db.port }} {{ gt (atoi .db.port) 5000 }}`, "empty,password,port,tls.crt,user true false 5432 true"},
	}
	for _, tt := range tests {
		got, err := render(tt.text)
		if tt.want == "" {
			if err == nil {
				t.Errorf("%s: no error", tt.text)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.text, got, err, tt.want)
		}
	}
}

// TestErrors reads what is said of bad templates: where, what, and what to do. None of it is a part of a secret.
func TestErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"a\n{{ .db.user", `line 2: unclosed action`},
		{"{{ if .db }}", `line 1: unexpected EOF`},
		{"{{ env `HOME` }}", `line 1: function "env" not defined; the functions are and, atoi, b64dec`},
		{"{{ secret `kv/x` }}", `function "secret" not defined`},
		{"{{ call .db }}", `function "call" not defined`},
		{"x\n  {{ .other.user }}", `line 2, column 6: there is no secret .other; those of the item are .db, .json, .none`},
		{"{{ with .db }}{{ $.bd.user }}{{ end }}", `line 1, column 18: there is no secret .bd`},
		{"{{ if (eq .dbs.x 1) }}{{ end }}", `there is no secret .dbs`},
		{`{{ template "x" }}`, `template "x" is not defined`},
		{"\n{{ .db.pasword }}", `line 2, column 4: .db has no "pasword"; if it need not have it, write index … "pasword"`},
		{"{{ .none.user }}", `.none is missing, so it has no "user"; ask for it with if or with`},
		{"{{ .none }}", `.none is missing; write what should stand in its place: … | default "…"`},
		{"{{ index .db `x` }}", `index .db ` + "`x`" + ` is missing`},
		{"{{ .db.user.first }}", `.db.user is a text, which has no fields such as "first"`},
		{"{{ .db.password | fromJson }}", "fromJson: the text is not JSON"},
		{"{{ .db.password | b64dec }}", "b64dec: the text is not base64"},
		{"{{ .db.password | atoi }}", "atoi: the text is not a whole number"},
		{"{{ lower 5 }}", "lower: argument 1 is a number and must be a text"},
		{"{{ index .db `x` | lower }}", "lower: argument 1 is missing"},
		{"{{ lower }}", "lower takes 1 argument; here are 0"},
		{"{{ replace 1 }}", "replace takes 3 arguments; here are 1"},
		{"{{ slice `a` 1 1 1 }}", "slice takes 1 to 3 arguments; here are 4"},
		{"{{ eq .db.password 1 }}", "eq: a text and a number can't be compared"},
		{"{{ index .db.password 99 }}", "index: the position is out of range"},
		{"{{ range .db.password }}{{ end }}", ".db.password is a text, and range goes over lists, maps and numbers"},
		{"{{ \"\\xff\" | toJson }}", "toJson: the value holds bytes that are not text"},
		{"{{ printf `%*d` 1 1 }}", "printf: a format has no * here"},
		{"{{ printf `%[1]d` 1 }}", "printf: a format has no [ here"},
		{"{{ printf `%p` .db }}", "printf: a format has no %p here"},
		{"{{ join `,` (list .db) }}", "join: the list holds a map"},
		{"{{ dict `a` }}", "dict: a key stands without a value"},
		{"{{ dict 1 2 }}", "dict: argument 1 is a number and must be a text"},
		{strings.Repeat("x", 64<<10+1), "the template has 65537 bytes, and 65536 are allowed"},
	}
	for _, tt := range tests {
		_, err := render(tt.text)
		var where *template.Error
		if !errors.As(err, &where) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.50s: got %v, want %s", tt.text, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "$ecret") || strings.Contains(err.Error(), "shop")) {
			t.Errorf("%.50s: %v holds a value", tt.text, err)
		}
	}
}

// TestBounds gives templates that would not end, or not fit.
func TestBounds(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"endless recursion":         {`{{ define "t" }}{{ template "t" }}{{ end }}{{ template "t" }}`, "nested too deep"},
		"recursion in deep nodes":   {`{{ define "t" }}` + strings.Repeat("{{if 1}}", 3000) + `{{ template "t" }}` + strings.Repeat("{{end}}", 3000) + `{{ end }}{{ template "t" }}`, "nested too deep"},
		"long range":                {`{{ range 1000000000 }}{{ end }}`, "does too much"},
		"nested ranges":             {`{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}`, "does too much"},
		"much output":               {`{{ range 100000 }}{{ "0123456789abcdef0123456789abcdef" }}{{ end }}`, "writes more than"},
		"text that doubles":         {`{{ $x := "0123456789abcdef" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}`, "does too much"},
		"replacement that grows":    {`{{ $x := "aaaaaaaaaa" }}{{ range 10 }}{{ $x = replace "a" $x $x }}{{ end }}`, "more than 1048576 bytes"},
		"list in a list":            {`{{ $x := list 1 }}{{ range 60 }}{{ $x = list $x $x }}{{ end }}{{ $x | toJson }}`, "does too much"},
		"list in a list, printed":   {`{{ $x := list 1 }}{{ range 60 }}{{ $x = list $x $x }}{{ end }}{{ $x }}`, "does too much"},
		"list in a list, formatted": {`{{ $x := list 1 }}{{ range 60 }}{{ $x = list $x $x }}{{ end }}{{ printf "%v" $x }}`, "does too much"},
		"deep list":                 {`{{ $x := list 1 }}{{ range 5000 }}{{ $x = list $x }}{{ end }}{{ $x | toJson }}`, "nested more than 100 deep"},
		"wide format":               {"{{ printf `%1000000d` 1 }}", "at most 3 digits"},
		"precise format":            {"{{ printf `%.1000f` 1.0 }}", "at most 3 digits"},
		"indent":                    {`{{ indent 1000000000 "x" }}`, "0 to 200 blanks"},
		"split into bytes":          {`{{ $x := "0123456789abcdef" }}{{ range 15 }}{{ $x = print $x $x }}{{ end }}{{ range 100 }}{{ $y := splitList "" $x }}{{ end }}`, "does too much"},
		"many comparisons of text":  {`{{ $x := "0123456789abcdef" }}{{ range 15 }}{{ $x = print $x $x }}{{ end }}{{ range 10000 }}{{ $y := eq $x $x }}{{ end }}`, "does too much"},
		"much JSON":                 {`{{ $x := "[0,0,0,0,0,0,0]" }}{{ range 14 }}{{ $x = printf "[%s,%s]" $x $x }}{{ end }}{{ range 100 }}{{ $y := fromJson $x }}{{ end }}`, "does too much"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			_, err := render(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestBudgetIsShared executes a template until all may do no more.
func TestBudgetIsShared(t *testing.T) {
	tmpl, err := template.Parse("{{ range 10000 }}{{ end }}", template.Delims{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	budget := template.NewBudget()
	for range 100 {
		if _, err = tmpl.Execute(nil, budget); err != nil {
			return
		}
	}
	t.Error("a hundred executions have no end")
}

func TestDelims(t *testing.T) {
	tmpl, err := template.Parse("{{ x }} [[ .db.user ]]", template.Delims{Left: "[[", Right: "]]"}, []string{"db"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := tmpl.Execute(values(), template.NewBudget())
	if got := string(out.Reveal()); err != nil || got != "{{ x }} shop" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestBytes passes bytes that are no text through.
func TestBytes(t *testing.T) {
	tmpl, err := template.Parse("{{ .s.b }}{{ .s.b | b64enc }}", template.Delims{}, []string{"s"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := tmpl.Execute(map[string]map[string]secret.Value{"s": {"b": secret.FromString("\x00\xff\n")}}, template.NewBudget())
	if got := string(out.Reveal()); err != nil || got != "\x00\xff\nAP8K" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{"db": true, "_x9": true, "DB": true, "": false, "9x": false, "a-b": false, "a.b": false, "é": false, "a b": false} {
		if err := template.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzTemplate renders templates here and with text/template. What succeeds here gives the same text there, and no error
// holds a value.
func FuzzTemplate(f *testing.F) {
	for _, text := range same {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := render(text)
		if err != nil {
			var where *template.Error
			if !errors.As(err, &where) || where.Line < 1 {
				t.Errorf("the error is %#v", err)
			}
			if strings.Contains(err.Error(), "it's <$") {
				t.Errorf("%v holds a value", err)
			}
			return
		}
		want, err := reference(text)
		if err != nil || got != want {
			t.Errorf("here %q, text/template has %q, %v", got, want, err)
		}
	})
}
