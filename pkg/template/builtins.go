package template

import (
	"errors"
	"fmt"
	"html"
	"net/url"
	"strings"
)

// builtins are text/template's own functions, but call (there is nothing to call) and js. and and or are in eval.go,
// because they need not evaluate all arguments.
var builtins = map[string]function{
	"and": {least: 1, most: -1}, "or": {least: 1, most: -1},
	"not":   fn1(func(v any) (any, error) { return !truth(v), nil }),
	"eq":    {least: 2, most: -1, call: func(args []any) (any, error) { return equalsAny(args[0], args[1:]) }},
	"ne":    fn2(func(a, b any) (any, error) { eq, err := equals(a, b); return !eq, err }),
	"lt":    fn2(func(a, b any) (any, error) { return less(a, b) }),
	"le":    fn2(func(a, b any) (any, error) { return lessOrEqual(a, b) }),
	"gt":    fn2(func(a, b any) (any, error) { le, err := lessOrEqual(a, b); return !le, err }),
	"ge":    fn2(func(a, b any) (any, error) { lt, err := less(a, b); return !lt, err }),
	"index": {least: 1, most: -1, call: index},
	"slice": {least: 1, most: 3, call: slice},
	"len":   fn1(length),

	"print":    printer(func(args []any) (any, error) { return fmt.Sprint(args...), nil }),
	"println":  printer(func(args []any) (any, error) { return fmt.Sprintln(args...), nil }),
	"printf":   printer(printf).atLeast(1),
	"html":     printer(func(args []any) (any, error) { return escapeHTML(fmt.Sprint(args...)), nil }),
	"urlquery": printer(func(args []any) (any, error) { return url.QueryEscape(fmt.Sprint(args...)), nil }),
}

func printer(call func([]any) (any, error)) function {
	return function{most: -1, goesThrough: true, call: call}
}

func (f function) atLeast(n int) function {
	f.least = n
	return f
}

// escapeHTML is html.EscapeString, and text/template's way with NUL.
func escapeHTML(s string) string { return strings.ReplaceAll(html.EscapeString(s), "\x00", "\uFFFD") }

func equalsAny(a any, others []any) (bool, error) {
	for _, b := range others {
		if eq, err := equals(a, b); eq || err != nil {
			return eq, err
		}
	}
	return false, nil
}

func equals(a, b any) (bool, error) {
	if a == nil || b == nil {
		return a == nil && b == nil, nil
	}
	switch a := a.(type) {
	case bool:
		if b, ok := b.(bool); ok {
			return a == b, nil
		}
	case int:
		if b, ok := b.(int); ok {
			return a == b, nil
		}
	case float64:
		if b, ok := b.(float64); ok {
			return a == b, nil
		}
	case string:
		if b, ok := b.(string); ok {
			return a == b, nil
		}
	}
	return false, incomparable(a, b)
}

func less(a, b any) (bool, error) {
	switch a := a.(type) {
	case int:
		if b, ok := b.(int); ok {
			return a < b, nil
		}
	case float64:
		if b, ok := b.(float64); ok {
			return a < b, nil
		}
	case string:
		if b, ok := b.(string); ok {
			return a < b, nil
		}
	}
	return false, incomparable(a, b)
}

func lessOrEqual(a, b any) (bool, error) {
	if lt, err := less(a, b); lt || err != nil {
		return lt, err
	}
	return equals(a, b)
}

func incomparable(a, b any) error {
	if typeOf(a) == "number" && typeOf(b) == "number" {
		return errors.New("a whole number and one with a fraction can't be compared; write 1.0 instead of 1")
	}
	return fmt.Errorf("a %s and a %s can't be compared", typeOf(a), typeOf(b))
}

// index goes down through lists, maps and texts. What a map doesn't have is missing, which is no error.
func index(args []any) (any, error) {
	item := args[0]
	if item == nil {
		return nil, errors.New("there is nothing to index; ask for it with if or with")
	}
	for _, at := range args[1:] {
		switch v := item.(type) {
		case map[string]any:
			key, ok := at.(string)
			if !ok {
				return nil, fmt.Errorf("the keys of a map are texts, and this is a %s", typeOf(at))
			}
			item = v[key]
		case []any:
			i, err := position(at, len(v)-1)
			if err != nil {
				return nil, err
			}
			item = v[i]
		case string:
			i, err := position(at, len(v)-1)
			if err != nil {
				return nil, err
			}
			item = int(v[i])
		default:
			return nil, fmt.Errorf("a %s can't be indexed", typeOf(v))
		}
	}
	return item, nil
}

// position checks an index that is at most last.
func position(at any, last int) (int, error) {
	i, ok := at.(int)
	if !ok {
		return 0, fmt.Errorf("a position is a whole number, and this is a %s", typeOf(at))
	}
	if i < 0 || i > last {
		return 0, errors.New("the position is out of range")
	}
	return i, nil
}

func slice(args []any) (any, error) {
	var size int
	switch v := args[0].(type) {
	case string:
		size = len(v)
	case []any:
		size = len(v)
	default:
		return nil, fmt.Errorf("a %s can't be sliced", typeOf(v))
	}
	bounds := [2]int{0, size}
	for i, at := range args[1:] {
		var err error
		if bounds[i], err = position(at, size); err != nil {
			return nil, err
		}
	}
	if bounds[0] > bounds[1] {
		return nil, errors.New("the first position is after the second")
	}
	if v, ok := args[0].(string); ok {
		return v[bounds[0]:bounds[1]], nil
	}
	return args[0].([]any)[bounds[0]:bounds[1]], nil
}

func length(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return len(v), nil
	case []any:
		return len(v), nil
	case map[string]any:
		return len(v), nil
	}
	return nil, fmt.Errorf("a %s has no length", typeOf(v))
}

// printf is fmt.Sprintf with formats that can't make much of little: widths are small, and each argument is used once.
func printf(args []any) (any, error) {
	format, err := argument[string](args, 0)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		digits := 0
		for i++; i < len(format) && strings.IndexByte("+-# 0123456789.*[", format[i]) >= 0; i++ {
			switch c := format[i]; {
			case c == '*' || c == '[':
				return nil, fmt.Errorf("a format has no %c here; write the width, and the arguments in their order", c)
			case '0' <= c && c <= '9':
				digits++
			default:
				digits = 0
			}
			if digits > maxWidthDigits {
				return nil, errors.New("a width or precision of a format has at most 3 digits")
			}
		}
		if i < len(format) && strings.IndexByte("pT", format[i]) >= 0 {
			return nil, fmt.Errorf("a format has no %%%c here", format[i])
		}
	}
	return fmt.Sprintf(format, args[1:]...), nil
}

const maxWidthDigits = 3
