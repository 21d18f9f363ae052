package template

import (
	"slices"
	"strings"
	"text/template/parse"
)

// checker goes through a tree before there are values. It knows what the dot is only where it is still the root.
type checker struct {
	template *Template
	secrets  []string
	inRoot   bool // in the text outside every define, where $ is the root
	err      *Error
}

func (c *checker) reportf(n parse.Node, format string, args ...any) {
	if c.err == nil {
		c.err = c.template.errorAt(n, format, args...)
	}
}

// list checks a list of nodes. atRoot: the dot is the root.
func (c *checker) list(l *parse.ListNode, atRoot bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			c.pipe(n.Pipe, atRoot)
		case *parse.IfNode:
			c.branch(&n.BranchNode, atRoot, atRoot)
		case *parse.WithNode:
			c.branch(&n.BranchNode, atRoot, false)
		case *parse.RangeNode:
			c.branch(&n.BranchNode, atRoot, false)
		case *parse.TemplateNode:
			if _, ok := c.template.trees[n.Name]; !ok {
				c.reportf(n, "template %q is not defined", n.Name)
			}
			c.pipe(n.Pipe, atRoot)
		}
	}
}

func (c *checker) branch(n *parse.BranchNode, atRoot, inside bool) {
	c.pipe(n.Pipe, atRoot)
	c.list(n.List, inside)
	c.list(n.ElseList, atRoot)
}

func (c *checker) pipe(p *parse.PipeNode, atRoot bool) {
	if p == nil {
		return
	}
	for _, cmd := range p.Cmds {
		for _, arg := range cmd.Args {
			c.operand(arg, atRoot)
		}
	}
}

func (c *checker) operand(n parse.Node, atRoot bool) {
	switch n := n.(type) {
	case *parse.PipeNode:
		c.pipe(n, atRoot)
	case *parse.ChainNode:
		c.operand(n.Node, atRoot)
	case *parse.FieldNode:
		if atRoot {
			c.named(n, n.Ident[0])
		}
	case *parse.VariableNode:
		if c.inRoot && n.Ident[0] == "$" && len(n.Ident) > 1 {
			c.named(n, n.Ident[1])
		}
	}
}

func (c *checker) named(n parse.Node, name string) {
	if !slices.Contains(c.secrets, name) {
		c.reportf(n, "there is no secret .%s; those of the item are .%s", name, strings.Join(c.secrets, ", ."))
	}
}
