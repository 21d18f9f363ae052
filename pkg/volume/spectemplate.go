package volume

import (
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/template"
)

// templateNode is what stands of a template in an item.
type templateNode struct {
	item, text *yaml.Node
	delims     template.Delims
}

// notOfTemplates are members that say which fields of one secret become what.
var notOfTemplates = []string{"name", "version", "stage", "namespace", "fields", "format", "encoding", "password", "parameters", "own"}

// template finishes an item that has a template. seen are the members that the item has.
func (p *parser) template(t templateNode, seen map[string]bool, it Item) Item {
	for _, member := range notOfTemplates {
		if seen[member] {
			p.reportAt(t.item, "an item with secrets and a template has no %s; write what it is for in the template or its secrets", member)
		}
	}
	switch {
	case t.text == nil:
		p.reportAt(t.item, "an item with secrets has no template; write one, or give each secret an item of its own")
		return it
	case it.Path == "":
		p.reportAt(t.item, "an item with a template has no path; write the path of the file")
		return it
	case len(it.Secrets) == 0 && !seen["secrets"]:
		p.reportAt(t.item, "an item with a template has no secrets; write a map such as secrets: {db: name-of-the-secret}")
		return it
	}
	names := make([]string, len(it.Secrets))
	for i := range it.Secrets {
		names[i] = it.Secrets[i].As
		if it.Secrets[i].Ref.Store == "" {
			it.Secrets[i].Ref.Store = it.Ref.Store
		}
	}
	it.Ref, it.Format, it.Encoding = scope.Ref{}, "", ""
	tmpl, err := template.Parse(p.text(t.text, "template"), t.delims, names)
	if err != nil {
		p.reportAt(t.text, "template %q %v", it.Path, err)
	}
	it.Template = tmpl
	return it
}

// sources reads the secrets of a template: a map from names to secrets.
func (p *parser) sources(n *yaml.Node) (all []Source) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		p.reportAt(n, "secrets must be a map from the names in the template to secrets, such as {db: name-of-the-secret}")
		return nil
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		s := p.source(value)
		s.As = p.text(key, "name in the template")
		if err := template.CheckName(s.As); err != nil {
			p.reportAt(key, "name %q in the template %v", s.As, err)
		}
		if slices.ContainsFunc(all, func(other Source) bool { return other.As == s.As }) {
			p.reportAt(key, "two secrets are named %q; rename one", s.As)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Source) int { return strings.Compare(a.As, b.As) })
	return all
}

func (p *parser) source(n *yaml.Node) (s Source) {
	if n.Kind == yaml.ScalarNode {
		s.Ref.Name = p.text(n, "secret")
		return s
	}
	p.mapping(n, "secret", members{
		"name":      func(n *yaml.Node) { s.Ref.Name = p.text(n, "name") },
		"store":     func(n *yaml.Node) { s.Ref.Store = p.text(n, "store") },
		"version":   func(n *yaml.Node) { s.Ref.Version = p.text(n, "version") },
		"stage":     func(n *yaml.Node) { s.Ref.Stage = p.text(n, "stage") },
		"namespace": func(n *yaml.Node) { s.Ref.Namespace = p.text(n, "namespace") },
		"optional":  func(n *yaml.Node) { s.Optional = scalar(p, n, "optional", parseBool) },

		"parameters": func(n *yaml.Node) { s.Parameters = p.texts(n, "parameters") },
		"own":        func(n *yaml.Node) { s.Own = scalar(p, n, "own", parseBool) },
	})
	return s
}

// parseDelims reads the two marks around an action. They are short, differ, and hold nothing that a template may hold
// within an action.
func parseDelims(s string) (template.Delims, error) {
	marks := strings.Fields(s)
	if len(marks) != 2 || marks[0] == marks[1] || strings.ContainsAny(s, "\"'`\n") {
		return template.Delims{}, errors.New("it must be two different marks with a blank between them, such as [[ ]]")
	}
	return template.Delims{Left: marks[0], Right: marks[1]}, nil
}
