package localfile_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers/localfile"
	"github.com/keywell/keywell/pkg/secret"
)

func plain(secrets map[string]map[string]secret.Value) map[string]map[string]string {
	out := map[string]map[string]string{}
	for name, fields := range secrets {
		out[name] = map[string]string{}
		for field, v := range fields {
			out[name][field] = string(v.Reveal())
		}
	}
	return out
}

// single is content in which every secret has one field of its own name.
func single(pairs ...string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = map[string]string{pairs[i]: pairs[i+1]}
	}
	return out
}

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct {
		file        string
		separator   string
		multiValued bool
		want        map[string]map[string]string
	}{
		"empty":             {file: " {}\n", want: single()},
		"strings":           {file: `{"a":"1","b":""}`, want: single("a", "1", "b", "")},
		"escapes":           {file: `{"\u0061":"\ud83d\udd11\n\u0000"}`, want: single("a", "🔑\n\x00")},
		"numbers as text":   {file: `{"i":5432,"f":1.50,"e":-1E+2,"big":123456789012345678901234567890}`, want: single("i", "5432", "f", "1.50", "e", "-1E+2", "big", "123456789012345678901234567890")},
		"words":             {file: `{"t":true,"f":false,"n":null}`, want: single("t", "true", "f", "false", "n", "")},
		"nested":            {file: `{"db":{"user":{"name":"u"},"ports":[1,[2]]}}`, want: single("db:user:name", "u", "db:ports:0", "1", "db:ports:1:0", "2")},
		"separator":         {file: `{"db":{"user":"u"}}`, separator: "--", want: single("db--user", "u")},
		"separator in key":  {file: `{"a:b":"1","a":{"c":"2"}}`, want: single("a:b", "1", "a:c", "2")},
		"no leaves":         {file: `{"o":{},"a":[],"n":{"o":{}}}`, want: single()},
		"empty inner keys":  {file: `{"a":{"":"1"}}`, want: single("a:", "1")},
		"keys in two cases": {file: `{"a":"1","A":"2"}`, want: single("a", "1", "A", "2")},
		"multi: strings":    {file: `{"a":"1","b":2,"c":true,"d":null}`, multiValued: true, want: single("a", "1", "b", "2", "c", "true", "d", "")},
		"multi: objects": {file: `{"db":{"user":"u","tls":{"key":"k"},"ports":[1,2]},"e":{}}`, multiValued: true,
			want: map[string]map[string]string{"db": {"user": "u", "tls:key": "k", "ports:0": "1", "ports:1": "2"}, "e": {}}},
		"multi: arrays": {file: `{"list":["x",{"y":"z"}],"e":[]}`, multiValued: true,
			want: map[string]map[string]string{"list": {"0": "x", "1:y": "z"}, "e": {}}},
		"multi: own name as field": {file: `{"db":{"db":"1"}}`, multiValued: true, want: single("db", "1")},
		"multi: same fields twice": {file: `{"a":{"k":"1"},"b":{"k":"2"}}`, multiValued: true,
			want: map[string]map[string]string{"a": {"k": "1"}, "b": {"k": "2"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.separator == "" {
				tt.separator = ":"
			}
			got, err := localfile.Parse([]byte(tt.file), tt.separator, tt.multiValued)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, plain(got)); diff != "" {
				t.Errorf("mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		file        string
		multiValued bool
		want        string
	}{
		"nothing":            {file: "", want: "line 1, column 1: not valid JSON: the file ends too early"},
		"cut off":            {file: "{\n  \"a\": \"c4n4ry", want: "line 2, column 15: not valid JSON: the file ends too early"},
		"syntax":             {file: "{\n  \"é\": c4n4ry\n}", want: "line 2, column 8: not valid JSON"},
		"trailing":           {file: "{}\n{}", want: "line 2, column 1: not valid JSON"},
		"trailing comma":     {file: "{\"a\":1,}", want: "line 1, column 8: not valid JSON"},
		"an array":           {file: "\n [1]", want: "line 2, column 2: the outermost value is not an object"},
		"a string":           {file: `"c4n4ry"`, want: "line 1, column 1: the outermost value is not an object"},
		"not UTF-8":          {file: "{\"a\":\n\"é\xff\"}", want: "line 2, column 3: not valid UTF-8"},
		"byte order mark":    {file: "\xef\xbb\xbf{}", want: "line 1, column 1: not valid JSON"},
		"key twice":          {file: "{\"a\":1,\n\"b\":{\"c\":1,\n\"c\":2}}", want: `line 3, column 3: key "/b/c" occurs twice`},
		"key twice, escaped": {file: `{"a":1,"\u0061":2}`, want: `line 1, column 15: key "/a" occurs twice`},
		"key twice, nested":  {file: `{"a":{"b":1},"a":{"c":2}}`, want: `line 1, column 16: key "/a" occurs twice`},
		"one name from two": {file: "{\"a\":{\"b\":1},\n\"a:b\":2}",
			want: `line 2, column 7: "/a/b" and "/a:b" both make "a:b": rename one key or set another nestedSeparator`},
		"one name, slashes": {file: `{"x/~":{":":1},"x/~:":{"":2}}`,
			want: `line 1, column 27: "/x~1~0/:" and "/x~1~0:/" both make "x/~::": rename one key or set another nestedSeparator`},
		"one field from two": {file: `{"s":{"a":{"b":1},"a:b":2}}`, multiValued: true,
			want: `line 1, column 25: "/s/a/b" and "/s/a:b" both make "a:b": rename one key or set another nestedSeparator`},
		"no name":        {file: `{"":"1"}`, want: `line 1, column 7: key "/" makes a secret without a name`},
		"multi: no name": {file: `{"":{"a":1}}`, multiValued: true, want: `line 1, column 5: key "/" makes a secret without a name`},
		"multi: no name, no leaves": {file: `{"":{}}`, multiValued: true,
			want: `line 1, column 5: key "/" makes a secret without a name`},
		"too deep": {file: `{"a":` + strings.Repeat("[", 100), want: "line 1, column 106: not valid JSON: the file ends too early"},
		"too deep, whole": {file: `{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
			want: "line 1, column 105: nested more than 100 levels deep"},
		"far too deep": {file: `{"a":` + strings.Repeat("[", 20_000), want: "line 1, column 10005: not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			secrets, err := localfile.Parse([]byte(tt.file), ":", tt.multiValued)
			if err == nil {
				t.Fatalf("parsed as %v", plain(secrets))
			}
			if err.Error() != tt.want {
				t.Errorf("error\n%s\nwant\n%s", err, tt.want)
			}
		})
	}
}

// FuzzParse checks parse against encoding/json: it takes nothing that is not JSON and loses no leaf.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":{"b":[1,true,null,"x"]}}`, `{"a":{"b":1},"a:b":2}`, `{"a":1,"a":2}`, `{"":{}}`, "{\"\xff\":1}", `[1]`, `{"a":`, `{"a":1e400}`,
	} {
		f.Add([]byte(seed), ":", true)
		f.Add([]byte(seed), "", false)
	}
	f.Fuzz(func(t *testing.T, data []byte, separator string, multiValued bool) {
		secrets, err := localfile.Parse(data, separator, multiValued)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") {
				t.Fatalf("error without a position: %v", err)
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		var tree map[string]any
		if err := dec.Decode(&tree); err != nil {
			t.Fatalf("took what is not an object: %v", err)
		}
		fields := 0
		for _, s := range secrets {
			fields += len(s)
		}
		if want := leaves(tree); fields != want {
			t.Fatalf("%d leaves became %d fields", want, fields)
		}
		if _, ok := secrets[""]; ok {
			t.Fatal("a secret has no name")
		}
	})
}

func leaves(tree any) int {
	n := 0
	switch v := tree.(type) {
	case map[string]any:
		for _, x := range v {
			n += leaves(x)
		}
	case []any:
		for _, x := range v {
			n += leaves(x)
		}
	default:
		n = 1
	}
	return n
}
