package members_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers/members"
)

func TestOf(t *testing.T) {
	const nested = `{"a": {"b": [1, {"c": "x"}], "d": {}}, "a.b.0": "y", "e": null, "n": 12345678901234567890.10, "o": { "z" : true }}`
	for name, tt := range map[string]struct {
		text, separator string
		want            map[string]string
	}{
		"flat": {`{"user": "ü\u0000", "port": 5432, "on": true, "list": [1, 2]}`, "", map[string]string{
			"user": "ü\x00", "port": "5432", "on": "true", "list": "[1,2]",
		}},
		"nested, left":        {nested, "", map[string]string{"a": `{"b":[1,{"c":"x"}],"d":{}}`, "a.b.0": "y", "e": "null", "n": "12345678901234567890.10", "o": `{"z":true}`}},
		"nested, taken apart": {nested, ".", map[string]string{"a.b.0": "y", "a.b.1.c": "x", "e": "null", "n": "12345678901234567890.10", "o.z": "true"}},
		"empty":               {`{}`, ".", map[string]string{}},
		"a list":              {`[1]`, ".", nil},
		"null":                {`null`, "", nil},
		"a text":              {`plain`, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := members.Of(tt.text, tt.separator)
			if (got == nil) != (tt.want == nil) {
				t.Fatalf("got %d fields, want %v", len(got), tt.want)
			}
			plain := map[string]string{}
			for field, v := range got {
				plain[field] = string(v.Reveal())
			}
			if diff := cmp.Diff(tt.want, plain); tt.want != nil && diff != "" {
				t.Errorf("mismatch (-want +got):\n%s", diff)
			}
		})
	}
}
