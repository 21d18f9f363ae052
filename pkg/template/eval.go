package template

import (
	"strings"
	"text/template/parse"
)

// missing is the argument from the pipeline where there is none.
type missing struct{}

// pipe returns the value of a pipeline, and sets its variables.
func (s *state) pipe(dot any, p *parse.PipeNode) (v any, err error) {
	if p == nil {
		return nil, nil
	}
	if err := s.enter(p); err != nil {
		return nil, err
	}
	defer s.leave()
	v = missing{}
	for _, cmd := range p.Cmds {
		if v, err = s.command(dot, cmd, v); err != nil {
			return nil, err
		}
	}
	for _, d := range p.Decl {
		if !p.IsAssign {
			s.vars = append(s.vars, variable{d.Ident[0], v})
		} else if err := s.assign(d, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// command returns the value of one command of a pipeline. final is the value of the one before it.
func (s *state) command(dot any, cmd *parse.CommandNode, final any) (any, error) {
	first := cmd.Args[0]
	if id, ok := first.(*parse.IdentifierNode); ok {
		return s.function(dot, id, cmd.Args[1:], final)
	}
	if len(cmd.Args) > 1 || final != (missing{}) {
		return nil, s.errorf(first, "%s is no function and takes no argument", first)
	}
	if first.Type() == parse.NodeNil {
		return nil, s.errorf(first, "nil stands alone; it is good for comparison only")
	}
	return s.operand(dot, first)
}

// operand returns the value of a node that stands alone or is an argument.
func (s *state) operand(dot any, n parse.Node) (any, error) {
	if err := s.enter(n); err != nil {
		return nil, err
	}
	defer s.leave()
	switch n := n.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.NilNode:
		return nil, nil
	case *parse.BoolNode:
		return n.True, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.NumberNode:
		return s.number(n)
	case *parse.FieldNode:
		return s.fields(n, dot, n.Ident)
	case *parse.VariableNode:
		v := s.variable(n)
		if v == nil {
			return nil, s.noVariable(n)
		}
		return s.fields(n, v.value, n.Ident[1:])
	case *parse.PipeNode:
		return s.pipe(dot, n)
	case *parse.IdentifierNode:
		return s.function(dot, n, nil, missing{})
	case *parse.ChainNode:
		if n.Node.Type() == parse.NodeNil {
			return nil, s.errorf(n, "nil has no fields")
		}
		v, err := s.operand(dot, n.Node)
		if err != nil {
			return nil, err
		}
		return s.fields(n, v, n.Field)
	}
	return nil, s.errorf(n, "%s is no value", n)
}

// variable returns the innermost variable of n's name, or nil. The parser finds most of those that do not exist, but not
// those of {{ $x = 1 }} and {{ $x := $x }}.
func (s *state) variable(n *parse.VariableNode) *variable {
	for i := len(s.vars) - 1; i >= 0; i-- {
		if s.vars[i].name == n.Ident[0] {
			return &s.vars[i]
		}
	}
	return nil
}

func (s *state) noVariable(n *parse.VariableNode) error {
	return s.errorf(n, "there is no variable %s; declare it with %s := …", n.Ident[0], n.Ident[0])
}

// number decides by the syntax what a number is, as Go does for constants.
func (s *state) number(n *parse.NumberNode) (any, error) {
	hex := len(n.Text) > 2 && n.Text[0] == '0' && strings.ContainsAny(n.Text[1:2], "xX") && !strings.ContainsAny(n.Text, "pP")
	switch {
	case n.IsComplex:
		return nil, s.errorf(n, "%s is a complex number; there are none here", n.Text)
	case n.IsFloat && !hex && n.Text[0] != '\'' && strings.ContainsAny(n.Text, ".eEpP"):
		return n.Float64, nil
	case n.IsInt:
		return int(n.Int64), nil
	}
	return nil, s.errorf(n, "%s is too large", n.Text)
}

// fields goes from v down through maps.
func (s *state) fields(n parse.Node, v any, names []string) (any, error) {
	for i, name := range names {
		path := strings.TrimSuffix(strings.TrimSuffix(n.String(), strings.Join(names[i:], ".")), ".")
		if path == "" {
			path = "the dot"
		}
		switch m := v.(type) {
		case nil:
			return nil, s.errorf(n, "%s is missing, so it has no %q; ask for it with if or with", path, name)
		case map[string]any:
			next, ok := m[name]
			if !ok {
				return nil, s.errorf(n, "%s has no %q; if it need not have it, write index … %q", path, name, name)
			}
			v = next
		default:
			return nil, s.errorf(n, "%s is a %s, which has no fields such as %q", path, typeOf(v), name)
		}
	}
	return v, nil
}

// function calls a function. args are its arguments in the template, final the one that comes from the pipeline.
func (s *state) function(dot any, id *parse.IdentifierNode, args []parse.Node, final any) (any, error) {
	f := functions[id.Ident]
	if id.Ident == "and" || id.Ident == "or" {
		return s.shortCircuit(dot, id, args, final)
	}
	values := make([]any, 0, len(args)+1)
	for _, arg := range args {
		v, err := s.operand(dot, arg)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	if final != (missing{}) {
		values = append(values, final)
	}
	if len(values) < f.least || f.most >= 0 && len(values) > f.most {
		return nil, s.errorf(id, "%s takes %s; here are %d", id.Ident, f.arity(), len(values))
	}
	if err := s.charge(id, f, values); err != nil {
		return nil, err
	}
	v, err := f.call(values)
	if err != nil {
		return nil, s.errorf(id, "%s: %v", id.Ident, err)
	}
	return v, s.chargeResult(id, f, v)
}

// shortCircuit is and and or, which evaluate no more arguments than they need.
func (s *state) shortCircuit(dot any, id *parse.IdentifierNode, args []parse.Node, final any) (v any, err error) {
	if len(args) == 0 && final == (missing{}) {
		return nil, s.errorf(id, "%s takes at least 1 argument; here are 0", id.Ident)
	}
	for _, arg := range args {
		if v, err = s.operand(dot, arg); err != nil || truth(v) == (id.Ident == "or") {
			return v, err
		}
	}
	if final != (missing{}) {
		v = final
	}
	return v, nil
}
