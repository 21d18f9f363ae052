package template

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// data are functions for base64, JSON, lists and maps.
var data = map[string]function{
	"b64enc": text(encodeBase64), "base64Encode": text(encodeBase64),
	"b64dec": fn1(decodeBase64), "base64Decode": fn1(decodeBase64),
	"base64URLEncode": text(func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) }),
	"base64URLDecode": fn1(decodeBase64URL),

	"toJson": fn1(toJSON("")).through(), "toJSON": fn1(toJSON("")).through(),
	"toPrettyJson": fn1(toJSON("  ")).through(), "toJSONPretty": fn1(toJSON("  ")).through(),
	"fromJson": fn1(fromJSON).weighing(8), "parseJSON": fn1(fromJSON).weighing(8),

	"default": fn2(func(instead, v any) (any, error) {
		if truth(v) {
			return v, nil
		}
		return instead, nil
	}),
	"ternary": fn3(func(yes, no any, condition bool) (any, error) {
		if condition {
			return yes, nil
		}
		return no, nil
	}),
	"list": {most: -1, makesList: true, call: func(args []any) (any, error) { return slices.Clone(args), nil }},
	"dict": {most: -1, makesList: true, call: dict},
	"keys": fn1(func(m map[string]any) (any, error) {
		keys := make([]any, 0, len(m))
		for _, key := range slices.Sorted(maps.Keys(m)) {
			keys = append(keys, key)
		}
		return keys, nil
	}).making(),
	"hasKey": fn2(func(m map[string]any, key string) (any, error) {
		_, ok := m[key]
		return ok, nil
	}),
}

func encodeBase64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func decodeBase64(s string) (any, error) {
	return decodeWith(base64.StdEncoding, base64.RawStdEncoding, s)
}

func decodeBase64URL(s string) (any, error) {
	return decodeWith(base64.URLEncoding, base64.RawURLEncoding, s)
}

// decodeWith takes base64 with padding or without, in any number of lines.
func decodeWith(padded, raw *base64.Encoding, s string) (any, error) {
	s = strings.Join(strings.Fields(s), "")
	if !strings.HasSuffix(s, "=") {
		padded = raw
	}
	plain, err := padded.DecodeString(s)
	if err != nil {
		return nil, errors.New("the text is not base64")
	}
	return string(plain), nil
}

// toJSON writes a value with sorted keys. Text that is not UTF-8 would not come back as it was.
func toJSON(indent string) func(any) (any, error) {
	return func(v any) (any, error) {
		if !isText(v) {
			return nil, errors.New("the value holds bytes that are not text, which JSON can't; write … | b64enc")
		}
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", indent)
		if err := enc.Encode(v); err != nil {
			return nil, errors.New("the value can't be written as JSON")
		}
		return strings.TrimSuffix(out.String(), "\n"), nil
	}
}

func isText(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case []any:
		return !slices.ContainsFunc(v, func(elem any) bool { return !isText(elem) })
	case map[string]any:
		for key, elem := range v {
			if !utf8.ValidString(key) || !isText(elem) {
				return false
			}
		}
	}
	return true
}

// fromJSON reads one JSON value. Whole numbers are whole numbers, and one that is too large for that is a text with its
// digits: an identifier must come out as it went in.
func fromJSON(s string) (any, error) {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	if _, more := dec.Token(); err != nil || !errors.Is(more, io.EOF) {
		return nil, errors.New("the text is not JSON")
	}
	return withNumbers(v), nil
}

// withNumbers replaces the numbers that package json has left as text, in place.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n)
		}
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return f
		}
		return v.String()
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = withNumbers(v[key])
		}
	}
	return v
}

// dict makes a map of keys and values in turns.
func dict(args []any) (any, error) {
	if len(args)%2 != 0 {
		return nil, errors.New("a key stands without a value")
	}
	m := make(map[string]any, len(args)/2)
	for i := 0; i < len(args); i += 2 {
		key, err := argument[string](args, i)
		if err != nil {
			return nil, err
		}
		m[key] = args[i+1]
	}
	return m, nil
}
