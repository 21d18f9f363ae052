package template

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// texts are functions for text. The text that is worked on is the last argument, so that it can come from a pipeline.
var texts = map[string]function{
	"lower": text(strings.ToLower), "toLower": text(strings.ToLower),
	"upper": text(strings.ToUpper), "toUpper": text(strings.ToUpper),
	"trim": text(strings.TrimSpace), "trimSpace": text(strings.TrimSpace),
	"quote":  text(strconv.Quote),
	"squote": text(func(s string) string { return "'" + s + "'" }),
	"sha256sum": text(func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:])
	}),

	"trimPrefix": text2(func(prefix, s string) string { return strings.TrimPrefix(s, prefix) }),
	"trimSuffix": text2(func(suffix, s string) string { return strings.TrimSuffix(s, suffix) }),
	"trimAll":    text2(func(cut, s string) string { return strings.Trim(s, cut) }),
	"contains":   fn2(func(part, s string) (any, error) { return strings.Contains(s, part), nil }),
	"hasPrefix":  fn2(func(prefix, s string) (any, error) { return strings.HasPrefix(s, prefix), nil }),
	"hasSuffix":  fn2(func(suffix, s string) (any, error) { return strings.HasSuffix(s, suffix), nil }),

	"replace": fn3(replace), "replaceAll": fn3(replace),
	"splitList": fn2(split).making(), "split": fn2(split).making(),
	"join":   fn2(join).through(),
	"indent": fn2(func(n int, s string) (any, error) { return indent(n, s) }),
	"nindent": fn2(func(n int, s string) (any, error) {
		lines, err := indent(n, s)
		return "\n" + lines, err
	}),
	"atoi": fn1(atoi),
}

func text(f func(string) string) function {
	return fn1(func(s string) (any, error) { return f(s), nil })
}

func text2(f func(a, s string) string) function {
	return fn2(func(a, s string) (any, error) { return f(a, s), nil })
}

// maxText limits what a function makes of little.
const maxText = maxOutput

var errLong = fmt.Errorf("the result would have more than %d bytes", maxText)

func replace(old, with, s string) (any, error) { return replaced(old, with, s) }

func replaced(old, with, s string) (string, error) {
	if len(s)+strings.Count(s, old)*(len(with)-len(old)) > maxText {
		return "", errLong
	}
	return strings.ReplaceAll(s, old, with), nil
}

func split(separator, s string) (any, error) {
	parts := strings.Split(s, separator)
	list := make([]any, len(parts))
	for i, part := range parts {
		list[i] = part
	}
	return list, nil
}

func join(separator string, list []any) (any, error) {
	parts := make([]string, len(list))
	size := 0
	for i, elem := range list {
		switch elem := elem.(type) {
		case string:
			parts[i] = elem
		case int, float64, bool:
			parts[i] = fmt.Sprint(elem)
		default:
			return nil, fmt.Errorf("the list holds a %s, and texts can be joined", typeOf(elem))
		}
		if size += len(separator) + len(parts[i]); size > maxText {
			return nil, errLong
		}
	}
	return strings.Join(parts, separator), nil
}

// indent puts n blanks before each line, empty lines included, as Helm and consul-template do.
func indent(n int, s string) (string, error) {
	if n < 0 || n > maxIndent {
		return "", fmt.Errorf("lines are indented by 0 to %d blanks", maxIndent)
	}
	blanks := strings.Repeat(" ", n)
	lines, err := replaced("\n", "\n"+blanks, s)
	return blanks + lines, err
}

const maxIndent = 200

func atoi(s string) (any, error) {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return nil, errors.New("the text is not a whole number")
	}
	return n, nil
}
