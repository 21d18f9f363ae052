package template

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/keywell/keywell/pkg/secret"
)

// What templates may take. A step is a node of the tree, an element of a range, or 64 bytes that a function reads or
// writes; all of them together take a fraction of a second.
const (
	maxSource = 64 << 10 // bytes of a template's text
	maxOutput = 1 << 20  // bytes that it may write
	maxSteps  = 1 << 18  // of all templates that share a Budget
	maxDepth  = 10_000   // of nested nodes, through templates that call templates
	maxNested = 100      // of lists and maps in each other, where a function goes through all of a value
)

// Template is a parsed template. It is immutable and safe for concurrent use.
type Template struct {
	source string
	root   *parse.Tree
	trees  map[string]*parse.Tree // defined template → its tree
}

// Delims are the marks around an action. The zero Delims are {{ and }}.
type Delims struct{ Left, Right string }

// Error says where a template is wrong. It holds no part of a secret.
type Error struct {
	Line, Column int // from 1; Column is 0 if it is not known
	Problem      string
}

// Error returns the place and the problem.
func (e *Error) Error() string {
	if e.Column == 0 {
		return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Problem)
}

// CheckName says what keeps name from being the name by which a template reaches a secret, as in {{ .name.field }}.
func CheckName(name string) error {
	for i, c := range []byte(name) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return errors.New("must be letters, digits and _, and no digit first, because templates say .name")
		}
	}
	if name == "" {
		return errors.New("is empty")
	}
	return nil
}

// rootName is what the text outside every {{ define }} is called.
const rootName = ""

// Parse parses text, a template over the secrets with these names. What can be known without values is checked: the
// syntax, that functions and templates exist, and that no secret is named but these. The error is an *Error.
func Parse(text string, delims Delims, secrets []string) (*Template, error) {
	if len(text) > maxSource {
		return nil, &Error{Line: 1, Problem: fmt.Sprintf("the template has %d bytes, and %d are allowed", len(text), maxSource)}
	}
	trees, err := parse.Parse(rootName, text, delims.Left, delims.Right, functionNames)
	if err != nil {
		return nil, parseError(err)
	}
	t := &Template{source: text, root: trees[rootName], trees: trees}
	delete(trees, rootName)
	if err := t.check(secrets); err != nil {
		return nil, err
	}
	return t, nil
}

// parseError takes an error of package parse apart: "template: name:line: problem".
func parseError(err error) *Error {
	text := strings.TrimPrefix(err.Error(), "template: "+rootName+":")
	line, problem, _ := strings.Cut(text, ": ")
	number, failed := strconv.Atoi(line)
	if failed != nil {
		return &Error{Line: 1, Problem: text}
	}
	problem = strings.ReplaceAll(problem, " started at "+rootName+":", " started at line ")
	if strings.HasPrefix(problem, "function ") && strings.HasSuffix(problem, " not defined") {
		problem += "; the functions are " + strings.Join(slices.Sorted(maps.Keys(functions)), ", ")
	}
	return &Error{Line: number, Problem: problem}
}

// check finds names of templates and secrets that do not exist.
func (t *Template) check(secrets []string) error {
	c := checker{template: t, secrets: secrets}
	c.inRoot = true
	c.list(t.root.Root, true)
	c.inRoot = false
	for _, name := range slices.Sorted(maps.Keys(t.trees)) {
		c.list(t.trees[name].Root, false)
	}
	if c.err != nil {
		return c.err
	}
	return nil
}

// Budget is the work that is left for templates that are executed one after the other.
type Budget struct{ steps int }

// NewBudget returns a Budget from which nothing is spent.
func NewBudget() *Budget { return &Budget{steps: maxSteps} }

// Execute writes what the template makes of secrets (name → field → value; a nil map stands for a secret that does not
// exist, and is false in a condition). Their bytes are taken as text, whatever they are. What it does is taken from the
// budget. The error is an *Error.
func (t *Template) Execute(secrets map[string]map[string]secret.Value, budget *Budget) (out secret.Value, err error) {
	data := make(map[string]any, len(secrets))
	for name, fields := range secrets {
		if fields == nil {
			data[name] = nil
			continue
		}
		values := make(map[string]any, len(fields))
		for field, value := range fields {
			values[field] = string(value.Reveal())
		}
		data[name] = values
	}
	s := state{template: t, budget: budget, vars: []variable{{"$", data}}}
	if err := s.run(data); err != nil {
		return secret.Value{}, err
	}
	return secret.New(s.out), nil
}

// errorAt is a problem at a node.
func (t *Template) errorAt(n parse.Node, format string, args ...any) *Error {
	before := t.source[:min(startOf(n), len(t.source))]
	line := strings.Count(before, "\n")
	return &Error{Line: line + 1, Column: len(before) - strings.LastIndexByte(before, '\n'), Problem: fmt.Sprintf(format, args...)}
}

// startOf is the offset at which a node begins. The position of a name with further fields is that of the second one.
func startOf(n parse.Node) int {
	at := int(n.Position())
	switch n := n.(type) {
	case *parse.FieldNode:
		if len(n.Ident) > 1 {
			at -= len(".") + len(n.Ident[0])
		}
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			at -= len(n.Ident[0])
		}
	}
	return max(at, 0)
}
