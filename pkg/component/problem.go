package component

import (
	"cmp"
	"fmt"
	"slices"
)

// Position is a place in a manifest.
type Position struct {
	// File is a path as it was configured or found or, for an object of the cluster, its kind and name, and the path
	// within it: "Component shop/vault spec.metadata[0]".
	File string
	Line int // counted from 1; zero: the file or object as a whole
}

// String returns "file:line", or the file alone if there is no line.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Severity says what a Problem means for the object that it is about.
type Severity uint8

// The severities, least serious first.
const (
	Note    Severity = iota // nothing is wrong: something was left out on purpose
	Warning                 // the object is used, perhaps not as its author meant it
	Error                   // the object is not used
)

var severityNames = [...]string{"note", "warning", "error"}

// String returns the severity in lower case.
func (s Severity) String() string { return severityNames[s] }

// Problem is one finding about a manifest.
type Problem struct {
	Position
	Severity Severity
	Field    string // path within the document, such as spec.metadata[2].name; empty: the document or file
	Message  string // what is wrong; never text from a metadata value
	Remedy   string // what to do about it, as an imperative; empty for a Note
}

// Error returns "file:line: field: message; remedy".
func (p Problem) Error() string {
	s := p.Position.String() + ": "
	if p.Field != "" {
		s += p.Field + ": "
	}
	s += p.Message
	if p.Remedy != "" {
		s += "; " + p.Remedy
	}
	return s
}

// String returns the severity followed by the text of Error.
func (p Problem) String() string { return p.Severity.String() + ": " + p.Error() }

// HasErrors reports whether one of problems is an Error.
func HasErrors(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Error })
}

// byLine sorts the problems of one file in the order in which a reader meets them.
func byLine(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field))
}
