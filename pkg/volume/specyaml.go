package volume

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keywell/keywell/pkg/scope"
)

func refOf(store string) scope.Ref { return scope.Ref{Store: strings.TrimSpace(store)} }

// items reads the attribute "secrets". An item starts as defaults.
func (p *parser) items(text string, defaults Item) []Item {
	if text := strings.TrimSpace(text); isYAML(text) {
		return p.yamlItems(text, defaults)
	}
	items := make([]Item, 0, min(strings.Count(text, ",")+1, maxItems))
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		items = append(items, named(defaults, name))
	}
	return items
}

func named(it Item, name string) Item {
	it.Ref.Name, it.Path = name, name
	return it
}

// isYAML tells a YAML list from names that are separated by commas.
func isYAML(text string) bool {
	return strings.HasPrefix(text, "[") || strings.HasPrefix(text, "- ") || strings.ContainsRune(text, '\n')
}

func (p *parser) yamlItems(text string, defaults Item) []Item {
	var doc, more yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(text))
	if err := dec.Decode(&doc); err != nil {
		p.reportf("is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		p.reportf("holds more than one YAML document; join them")
		return nil
	}
	list := doc.Content[0]
	if list.Kind != yaml.SequenceNode {
		p.reportAt(list, "must be a list of items, or names on one line with commas between them")
		return nil
	}
	items := make([]Item, 0, len(list.Content))
	for _, n := range list.Content {
		items = append(items, p.item(n, defaults))
	}
	return items
}

// reportAt reports a problem with the line of n.
func (p *parser) reportAt(n *yaml.Node, format string, args ...any) {
	p.reportf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
}

func (p *parser) item(n *yaml.Node, it Item) Item {
	if n.Kind == yaml.ScalarNode {
		return named(it, p.text(n, "item"))
	}
	t := templateNode{item: n}
	seen := p.mapping(n, "item", members{
		"name":      func(n *yaml.Node) { it.Ref.Name = p.text(n, "name") },
		"store":     func(n *yaml.Node) { it.Ref.Store = p.text(n, "store") },
		"version":   func(n *yaml.Node) { it.Ref.Version = p.text(n, "version") },
		"stage":     func(n *yaml.Node) { it.Ref.Stage = p.text(n, "stage") },
		"namespace": func(n *yaml.Node) { it.Ref.Namespace = p.text(n, "namespace") },
		"path":      func(n *yaml.Node) { it.Path = p.text(n, "path") },
		"fields":    func(n *yaml.Node) { it.Fields = p.fields(n) },
		"mode":      func(n *yaml.Node) { it.Mode = scalar(p, n, "mode", parseMode) },
		"optional":  func(n *yaml.Node) { it.Optional = scalar(p, n, "optional", parseBool) },
		"format":    func(n *yaml.Node) { it.Format = scalar(p, n, "format", parseFormat) },
		"encoding":  func(n *yaml.Node) { it.Encoding = scalar(p, n, "encoding", parseEncoding) },

		"password":   func(n *yaml.Node) { it.Password = p.password(n) },
		"parameters": func(n *yaml.Node) { it.Parameters = p.texts(n, "parameters") },
		"own":        func(n *yaml.Node) { it.Own = scalar(p, n, "own", parseBool) },

		"template":   func(n *yaml.Node) { t.text = n },
		"secrets":    func(n *yaml.Node) { it.Secrets = p.sources(n) },
		"delimiters": func(n *yaml.Node) { t.delims = scalar(p, n, "delimiters", parseDelims) },
	})
	if seen["template"] || seen["secrets"] || seen["delimiters"] {
		return p.template(t, seen, it)
	}
	if it.Path == "" {
		it.Path = it.Ref.Name
	}
	if it.Password != nil && it.Password.Field != "" && it.Password.Ref.Store == "" {
		it.Password.Ref.Store = it.Ref.Store
	}
	return it
}

// fields reads a list of names and fields, or a map from names to paths.
func (p *parser) fields(n *yaml.Node) []Field {
	var fields []Field
	switch n.Kind {
	case yaml.SequenceNode:
		for _, n := range n.Content {
			fields = append(fields, p.field(n))
		}
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			name, to := n.Content[i], n.Content[i+1]
			fields = append(fields, Field{Name: p.text(name, "name of a field"), Path: p.text(to, "path of a field")})
		}
	}
	if len(fields) == 0 {
		p.reportAt(n, "fields must be a list of names, a list of {name, path, mode, encoding} or a map from names to paths; leave it out for all fields")
	}
	return fields
}

func (p *parser) field(n *yaml.Node) (f Field) {
	if n.Kind == yaml.ScalarNode {
		return Field{Name: p.text(n, "field")}
	}
	p.mapping(n, "field", members{
		"name":     func(n *yaml.Node) { f.Name = p.text(n, "name") },
		"path":     func(n *yaml.Node) { f.Path = p.text(n, "path") },
		"mode":     func(n *yaml.Node) { f.Mode = scalar(p, n, "mode", parseMode) },
		"encoding": func(n *yaml.Node) { f.Encoding = scalar(p, n, "encoding", parseEncoding) },
	})
	return f
}

// members is what a mapping may hold: key → what reads its value.
type members map[string]func(*yaml.Node)

// mapping returns the members that n has.
func (p *parser) mapping(n *yaml.Node, what string, m members) (seen map[string]bool) {
	if n.Kind != yaml.MappingNode {
		p.reportAt(n, "%s must be a name or a mapping", what)
		return nil
	}
	seen = map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, known := m[key.Value]
		switch {
		case !known:
			p.reportAt(key, "%s has an unknown member %q; the members are %s", what, key.Value, strings.Join(slices.Sorted(maps.Keys(m)), ", "))
		case seen[key.Value]:
			p.reportAt(key, "%s has two members %q; remove one", what, key.Value)
		default:
			seen[key.Value] = true
			read(value)
		}
	}
	return seen
}

// texts reads a map from names to texts, which may be empty.
func (p *parser) texts(n *yaml.Node, what string) map[string]string {
	if n.Kind != yaml.MappingNode {
		p.reportAt(n, "%s must be a map from names to texts", what)
		return nil
	}
	all := make(map[string]string, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch _, twice := all[key.Value]; {
		case value.Kind != yaml.ScalarNode || value.ShortTag() == "!!null":
			p.reportAt(value, "%s %q must be a text", what, key.Value)
		case twice:
			p.reportAt(key, "%s has two members %q; remove one", what, key.Value)
		default:
			all[key.Value] = value.Value
		}
	}
	return all
}

// text returns the characters of a scalar as they stand in the YAML text: 0400 is not a number, nor is 1.10.
func (p *parser) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.Value == "" {
		p.reportAt(n, "%s must be a text that is not empty", what)
		return ""
	}
	return n.Value
}

// scalar returns what parse makes of n, and reports its error.
func scalar[T any](p *parser, n *yaml.Node, what string, parse func(string) (T, error)) (v T) {
	text := p.text(n, what)
	if text == "" {
		return v
	}
	v, err := parse(text)
	if err != nil {
		p.reportAt(n, "%s is %q; %v", what, text, err)
	}
	return v
}
