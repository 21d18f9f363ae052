package template

import "maps"

// Functions returns those functions that are not text/template's own, in the form in which text/template takes them.
func Functions() map[string]any {
	all := map[string]any{}
	for name, f := range merge(texts, data, keystores) {
		all[name] = func(args ...any) (any, error) { return f.call(args) }
	}
	maps.DeleteFunc(all, func(name string, _ any) bool { _, own := builtins[name]; return own })
	return all
}
