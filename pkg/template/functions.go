package template

import (
	"errors"
	"fmt"
	"maps"
	"text/template/parse"
)

// stepBytes is how many bytes a function reads or writes in one step.
const stepBytes = 64

// function is what templates can call. call gets as many arguments as least and most say; its error holds no part of
// them.
type function struct {
	least, most int  // arguments; most < 0: any number
	goesThrough bool // what is in lists and maps, too
	makesList   bool // or a map, in which each element counts
	weight      int  // what a text costs it, as a multiple of the usual; 0: 1
	steps       int  // beyond what its arguments cost
	call        func(args []any) (any, error)
}

func (f function) arity() string {
	plural := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case f.most < 0:
		return "at least " + plural(f.least)
	case f.least < f.most:
		return fmt.Sprintf("%d to %d arguments", f.least, f.most)
	}
	return plural(f.least)
}

// functions is the whole set. Names are those of text/template, and those by which Helm, the External Secrets Operator
// (sprig) and Vault Agent (consul-template) know a function.
var functions = merge(builtins, texts, data, keystores)

// functionNames is functions as package parse wants it.
var functionNames = func() map[string]any {
	names := map[string]any{}
	for name := range functions {
		names[name] = true
	}
	return names
}()

func merge(sets ...map[string]function) map[string]function {
	all := map[string]function{}
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

// charge counts what a call is going to read.
func (s *state) charge(n parse.Node, f function, args []any) error {
	steps := f.steps
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			steps += len(text) / stepBytes * max(f.weight, 1)
		} else if f.goesThrough {
			if _, err := s.measure(n, arg); err != nil {
				return err
			}
		}
	}
	return s.spend(n, steps)
}

// chargeResult counts what a call has made.
func (s *state) chargeResult(n parse.Node, f function, result any) error {
	switch v := result.(type) {
	case string:
		return s.spend(n, len(v)/stepBytes)
	case []any:
		if f.makesList {
			return s.spend(n, len(v))
		}
	case map[string]any:
		if f.makesList {
			return s.spend(n, len(v))
		}
	}
	return nil
}

// measure returns how many bytes of text are in v, and counts going through it. A list that is in another twice is
// counted twice, so that a value that is small in memory and endless in text is found.
func (s *state) measure(n parse.Node, v any) (int, error) { return s.measureNested(n, v, maxNested) }

func (s *state) measureNested(n parse.Node, v any, depth int) (size int, err error) {
	if depth == 0 {
		return 0, s.errorf(n, "lists and maps are nested more than %d deep", maxNested)
	}
	add := func(v any) {
		if err == nil {
			var more int
			more, err = s.measureNested(n, v, depth-1)
			size += more
		}
	}
	switch v := v.(type) {
	case string:
		size = len(v)
	case []any:
		for _, elem := range v {
			add(elem)
		}
	case map[string]any:
		for key, elem := range v {
			size += len(key)
			add(elem)
		}
	}
	if err != nil {
		return 0, err
	}
	return size, s.spend(n, 1+size/stepBytes)
}

// truth is whether v counts as true: not missing, not empty, not zero.
func truth(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case int:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return false
}

// typeOf names the type of a value in errors.
func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "missing value"
	case bool:
		return "boolean"
	case int, float64:
		return "number"
	case string:
		return "text"
	case []any:
		return "list"
	case map[string]any:
		return "map"
	}
	return "value"
}

// argument returns an argument as what a function wants.
func argument[T any](args []any, i int) (v T, err error) {
	v, ok := args[i].(T)
	if _, any := any(&v).(*any); ok || any {
		return v, nil
	}
	if args[i] == nil {
		return v, fmt.Errorf("argument %d is missing; write what should stand in its place: … | default \"…\"", i+1)
	}
	return v, fmt.Errorf("argument %d is a %s and must be a %s", i+1, typeOf(args[i]), typeOf(v))
}

// fn1, fn2 and fn3 make functions of Go functions.
func fn1[A any](f func(A) (any, error)) function {
	return function{least: 1, most: 1, call: func(args []any) (any, error) {
		a, err := argument[A](args, 0)
		if err != nil {
			return nil, err
		}
		return f(a)
	}}
}

func fn2[A, B any](f func(A, B) (any, error)) function {
	return function{least: 2, most: 2, call: func(args []any) (any, error) {
		a, err := argument[A](args, 0)
		b, err2 := argument[B](args, 1)
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		return f(a, b)
	}}
}

func fn3[A, B, C any](f func(A, B, C) (any, error)) function {
	return function{least: 3, most: 3, call: func(args []any) (any, error) {
		a, err := argument[A](args, 0)
		b, err2 := argument[B](args, 1)
		c, err3 := argument[C](args, 2)
		if err := errors.Join(err, err2, err3); err != nil {
			return nil, err
		}
		return f(a, b, c)
	}}
}

func (f function) through() function {
	f.goesThrough = true
	return f
}

func (f function) making() function {
	f.makesList = true
	return f
}

func (f function) weighing(weight int) function {
	f.weight = weight
	return f
}
