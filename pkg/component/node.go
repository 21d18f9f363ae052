package component

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A decoder reads one document. It collects every problem and goes on.
type decoder struct {
	src    *Sources
	file   string
	line   int  // lines of the file before the document
	inAPI  bool // an object of the cluster, which has no lines: what is named instead are paths within it
	strict bool // Keywell's own kinds: names match exactly, and what is not known is an error

	budget   int // bytes of text that may still be visited; aliases make a document larger than its file
	problems []Problem
	failed   bool // one of the problems is an Error
}

// node is a place in a document. The zero node stands for something that is not there.
type node struct {
	yaml *yaml.Node
	path string // for Problem.Field
}

// Bounds on one document.
const (
	maxExpanded = 2 * maxFileSize // bytes visited, aliases followed
	maxDepth    = 64              // of mappings and lists in a value
	maxProblems = 100             // reported; the rest is left out
)

// present reports whether n is there and not null.
func (n node) present() bool { return n.yaml != nil && n.yaml.ShortTag() != "!!null" }

func (n node) isMapping() bool { return n.yaml.Kind == yaml.MappingNode }

// kind names what n is, for a message.
func (n node) kind() string {
	switch n.yaml.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

func (d *decoder) position(n node) Position {
	switch {
	case d.inAPI && n.path != "":
		return Position{File: d.file + " " + n.path}
	case d.inAPI:
		return Position{File: d.file}
	}
	return Position{File: d.file, Line: d.line + n.yaml.Line}
}

// where says where in the file or object p is.
func (d *decoder) where(p Position) string {
	if d.inAPI {
		return "in " + strings.TrimPrefix(p.File, d.file+" ")
	}
	return fmt.Sprintf("on line %d", p.Line)
}

func (d *decoder) report(s Severity, n node, message, remedy string) {
	d.failed = d.failed || s == Error
	if len(d.problems) == maxProblems {
		return
	}
	at := d.position(n)
	if d.inAPI {
		at.File = d.file // the path is the problem's Field
	}
	d.problems = append(d.problems, Problem{
		Position: at, Severity: s, Field: n.path, Message: message, Remedy: remedy,
	})
}

func (d *decoder) fail(n node, message, remedy string) { d.report(Error, n, message, remedy) }

func (d *decoder) warn(n node, message, remedy string) { d.report(Warning, n, message, remedy) }

// visit follows aliases and charges for what it finds. When the budget is spent it finds only nulls, so that whatever
// goes on walking comes to an end; decodeDocument then refuses the document.
func (d *decoder) visit(y *yaml.Node, path string) node {
	for y.Kind == yaml.AliasNode {
		y = y.Alias
	}
	if d.budget -= len(y.Value) + 1; d.budget < 0 {
		return node{yaml: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: y.Line}, path: path}
	}
	return node{yaml: y, path: path}
}

// member is one key of a mapping with its value.
type member struct {
	name   string
	key    *yaml.Node
	value  *yaml.Node
	merged bool // brought in by a "<<"
}

// members returns what the mapping n holds, merged mappings ("<<") first, so that a later member of a name counts.
func (d *decoder) members(n node, depth int) []member {
	if depth > maxDepth {
		d.budget = -1
		return nil
	}
	var merged, own []member
	for i := 0; i+1 < len(n.yaml.Content); i += 2 {
		key, value := n.yaml.Content[i], n.yaml.Content[i+1]
		k := d.visit(key, n.path)
		if k.yaml.ShortTag() == "!!merge" {
			for _, m := range d.merge(d.visit(value, n.path), depth+1) {
				m.merged = true
				merged = append(merged, m)
			}
			continue
		}
		name, ok := d.plain(k)
		if !ok {
			d.fail(node{key, n.path}, "a key is not a single value", "write a name")
			continue
		}
		own = append(own, member{name: name, key: key, value: value})
	}
	return append(merged, own...)
}

// merge returns the members that a "<<" brings in: of one mapping, or of several, of which the first counts most.
func (d *decoder) merge(n node, depth int) []member {
	switch n.yaml.Kind {
	case yaml.MappingNode:
		return d.members(n, depth)
	case yaml.SequenceNode:
		var all []member
		for i := len(n.yaml.Content) - 1; i >= 0; i-- {
			if m := d.visit(n.yaml.Content[i], n.path); m.isMapping() {
				all = append(all, d.members(m, depth)...)
			}
		}
		return all
	default:
		d.fail(n, "<< merges something that is not a mapping", "refer to a mapping")
		return nil
	}
}

// object returns the members of n by their names in known. A name that is not known is a problem; no names at all means
// that any is fine. An absent n is an empty object.
func (d *decoder) object(n node, known ...string) map[string]node {
	if !n.present() {
		return nil
	}
	if !n.isMapping() {
		d.fail(n, "is "+n.kind()+" where a mapping belongs", "write name: value pairs")
		return nil
	}
	found := make(map[string]node, len(known))
	lines := map[string]int{} // name → line of the key, for duplicates within one mapping
	for _, m := range d.members(n, 0) {
		name, ok := d.lookup(m.name, known)
		key := node{m.key, join(n.path, m.name)}
		if !ok {
			d.unknown(key, m.name, known)
			continue
		}
		if line, twice := lines[name]; twice {
			d.duplicate(key, line)
		}
		if !m.merged {
			lines[name] = m.key.Line
		}
		found[name] = d.visit(m.value, join(n.path, name))
	}
	return found
}

// lookup finds the known spelling of name. Dapr matches names in any case, as encoding/json does.
func (d *decoder) lookup(name string, known []string) (string, bool) {
	for _, k := range known {
		if k == name || (!d.strict && strings.EqualFold(k, name)) {
			return k, true
		}
	}
	return "", false
}

func (d *decoder) unknown(key node, name string, known []string) {
	remedy := "remove it; known here: " + strings.Join(known, ", ")
	if near, ok := Nearest(name, known); ok {
		remedy = fmt.Sprintf("write %q, or remove it", near)
	}
	if d.strict {
		d.fail(key, "is not known", remedy)
		return
	}
	d.warn(key, "is not known and ignored", remedy)
}

func (d *decoder) duplicate(key node, line int) {
	message := fmt.Sprintf("is given again, first on line %d", d.line+line)
	if d.strict {
		d.fail(key, message, "keep one of the two")
		return
	}
	d.warn(key, message+"; the last one counts", "keep one of the two")
}

// list returns the elements of n; an absent n is an empty list.
func (d *decoder) list(n node) []node {
	if !n.present() {
		return nil
	}
	if n.yaml.Kind != yaml.SequenceNode {
		d.fail(n, "is "+n.kind()+" where a list belongs", "start each entry with a dash")
		return nil
	}
	elements := make([]node, len(n.yaml.Content))
	for i, y := range n.yaml.Content {
		elements[i] = d.visit(y, fmt.Sprintf("%s[%d]", n.path, i))
	}
	return elements
}

// text returns a single value as a string; an absent n is the empty string. As in Dapr, a number or a boolean is taken
// for its text in Dapr's kinds. In Keywell's own it is an error, because "no" or 1.10 rarely is what was meant.
func (d *decoder) text(n node) string {
	if !n.present() {
		return ""
	}
	if n.yaml.Kind != yaml.ScalarNode {
		d.fail(n, "is "+n.kind()+" where a string belongs", "write a string")
		return ""
	}
	if d.strict && n.yaml.ShortTag() != "!!str" {
		d.fail(n, "is not a string", "put it in quotes")
		return ""
	}
	s, ok := d.plain(n)
	if !ok {
		d.fail(n, "does not fit its tag", "remove the tag, or write a string")
	}
	return s
}

// texts returns a list of strings.
func (d *decoder) texts(n node) []string {
	var all []string
	for _, e := range d.list(n) {
		all = append(all, d.text(e))
	}
	return all
}

// truth returns a boolean; an absent n is false.
func (d *decoder) truth(n node) bool {
	if !n.present() {
		return false
	}
	if n.yaml.Kind == yaml.ScalarNode {
		if v, err := scalar(n.yaml); err == nil {
			if b, ok := v.(bool); ok {
				return b
			}
		}
	}
	d.fail(n, "is not a boolean", "write true or false, without quotes")
	return false
}

// plain returns the text of a single value that is not null.
func (d *decoder) plain(n node) (string, bool) {
	switch {
	case n.yaml.Kind != yaml.ScalarNode:
		return "", false
	case d.strict:
		return n.yaml.Value, true
	}
	v, err := scalar(n.yaml)
	if err != nil {
		return "", false
	}
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case nil:
		return "", false
	default:
		return fmt.Sprint(v), true // an integer
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
