package template

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/template/parse"
)

// state is one execution.
type state struct {
	template *Template
	vars     []variable // those in sight, the innermost last; the first is $
	out      []byte
	budget   *Budget
	depth    int
}

type variable struct {
	name  string
	value any
}

// What ends an iteration early.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

func (s *state) run(data any) error { return s.list(data, s.template.root.Root) }

func (s *state) errorf(n parse.Node, format string, args ...any) error {
	return s.template.errorAt(n, format, args...)
}

// spend counts work.
func (s *state) spend(n parse.Node, steps int) error {
	if s.budget.steps -= steps; s.budget.steps < 0 {
		return s.errorf(n, "the template does too much; all templates together may take %d steps", maxSteps)
	}
	return nil
}

// enter counts a node and how deep it is. leave is called when the node is done.
func (s *state) enter(n parse.Node) error {
	if s.depth++; s.depth > maxDepth {
		return s.errorf(n, "the template is nested too deep; a template may not call itself without end")
	}
	return s.spend(n, 1)
}

func (s *state) leave() { s.depth-- }

func (s *state) write(n parse.Node, text string) error {
	if len(s.out)+len(text) > maxOutput {
		return s.errorf(n, "the template writes more than %d bytes", maxOutput)
	}
	s.out = append(s.out, text...)
	return s.spend(n, len(text)/stepBytes)
}

func (s *state) list(dot any, l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	for _, n := range l.Nodes {
		if err := s.node(dot, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) node(dot any, n parse.Node) error {
	if err := s.enter(n); err != nil {
		return err
	}
	defer s.leave()
	switch n := n.(type) {
	case *parse.TextNode:
		return s.write(n, string(n.Text))
	case *parse.ActionNode:
		return s.action(dot, n)
	case *parse.IfNode:
		return s.branch(dot, &n.BranchNode, func(any) any { return dot })
	case *parse.WithNode:
		return s.branch(dot, &n.BranchNode, func(v any) any { return v })
	case *parse.RangeNode:
		return s.rangeOver(dot, n)
	case *parse.TemplateNode:
		return s.call(dot, n)
	case *parse.BreakNode:
		return errBreak
	case *parse.ContinueNode:
		return errContinue
	case *parse.CommentNode:
		return nil
	}
	return s.errorf(n, "this is no part of a template")
}

func (s *state) action(dot any, n *parse.ActionNode) error {
	v, err := s.pipe(dot, n.Pipe)
	if err != nil || len(n.Pipe.Decl) > 0 {
		return err
	}
	if v == nil {
		return s.errorf(n, "%s is missing; write what should stand in its place: … | default \"…\"", n.Pipe)
	}
	if text, ok := v.(string); ok {
		return s.write(n, text)
	}
	if _, err := s.measure(n, v); err != nil {
		return err
	}
	return s.write(n, fmt.Sprint(v))
}

// branch runs if and with. inside returns the dot within.
func (s *state) branch(dot any, n *parse.BranchNode, inside func(any) any) error {
	mark := len(s.vars)
	defer func() { s.vars = s.vars[:mark] }()
	v, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return err
	}
	if truth(v) {
		return s.list(inside(v), n.List)
	}
	return s.list(dot, n.ElseList)
}

func (s *state) rangeOver(dot any, n *parse.RangeNode) error {
	outer := len(s.vars)
	defer func() { s.vars = s.vars[:outer] }()
	v, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
	case int:
		if len(n.Pipe.Decl) > 1 {
			return s.errorf(n, "a range over a number has one variable")
		}
		for i := range v {
			if goOn, err := s.iteration(n, nil, i); !goOn {
				return err
			}
		}
		if v > 0 {
			return nil
		}
	case []any:
		for i, elem := range v {
			if goOn, err := s.iteration(n, i, elem); !goOn {
				return err
			}
		}
		if len(v) > 0 {
			return nil
		}
	case map[string]any:
		if err := s.spend(n, len(v)); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if goOn, err := s.iteration(n, key, v[key]); !goOn {
				return err
			}
		}
		if len(v) > 0 {
			return nil
		}
	default:
		return s.errorf(n, "%s is a %s, and range goes over lists, maps and numbers", n.Pipe, typeOf(v))
	}
	return s.list(dot, n.ElseList)
}

// iteration runs the body of a range once. It returns false if that was the last time.
func (s *state) iteration(n *parse.RangeNode, index, elem any) (goOn bool, err error) {
	if err := s.spend(n, 1); err != nil {
		return false, err
	}
	mark := len(s.vars)
	defer func() { s.vars = s.vars[:mark] }()
	decl := n.Pipe.Decl
	values := []any{elem}
	if len(decl) > 1 {
		values = []any{index, elem}
	}
	for i, d := range decl {
		if n.Pipe.IsAssign {
			if err := s.assign(d, values[i]); err != nil {
				return false, err
			}
		} else {
			s.vars[mark-len(decl)+i].value = values[i]
		}
	}
	switch err := s.list(elem, n.List); {
	case errors.Is(err, errBreak):
		return false, nil
	case err == nil || errors.Is(err, errContinue):
		return true, nil
	default:
		return false, err
	}
}

// call runs a defined template, which sees no variables but $, its own dot.
func (s *state) call(dot any, n *parse.TemplateNode) error {
	arg, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return err
	}
	vars := s.vars
	defer func() { s.vars = vars }()
	s.vars = []variable{{"$", arg}}
	return s.list(arg, s.template.trees[n.Name].Root)
}

// assign changes the innermost variable of that name.
func (s *state) assign(n *parse.VariableNode, value any) error {
	v := s.variable(n)
	if v == nil {
		return s.noVariable(n)
	}
	v.value = value
	return nil
}
