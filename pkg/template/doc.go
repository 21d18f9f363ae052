// Package template makes a text of secrets, as a template in the language of Go's text/template says.
//
// It parses with the standard library's text/template/parse and evaluates the tree itself, over plain values: strings,
// numbers, booleans, lists and maps. What a template writes is what text/template would write, which the tests compare.
// Three things differ, all on purpose. A value that is missing is an error, never "<no value>" in a file. There are no
// methods and nothing to call but a fixed set of functions, all pure: a template reaches no environment, no file, no
// clock, no network and no secret but those it is given. And a template ends: what it does is counted, and what it
// writes is limited.
//
// Why not text/template: it calls methods by reflection, which makes the linker keep every method of every SDK in the
// binary; and it has no limits. docs/decisions holds the measurements.
//
// No error holds a part of a value: it names what stands in the template, with line and column. The package knows no
// store. Package volume calls it.
package template
