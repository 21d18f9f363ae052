package component

import (
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

// scalar returns the Go value of a single value: string, bool, int, int64, uint64, float64 or nil. It reads YAML 1.1 as
// Dapr does, in which a plain yes or off is a boolean and a timestamp stays a string.
func scalar(y *yaml.Node) (any, error) {
	switch tag := y.ShortTag(); {
	case tag == "!!timestamp":
		return y.Value, nil
	case tag == "!!str" && y.Style == 0:
		if b, ok := oldBool(y.Value); ok {
			return b, nil
		}
		return y.Value, nil
	case tag == "!!str":
		return y.Value, nil
	}
	var v any
	err := y.Decode(&v)
	return v, err
}

// oldBool knows the booleans that YAML 1.2 dropped.
func oldBool(s string) (value, ok bool) {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		return true, true
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

// value returns any value as the text that a Dapr component gets: a string as it is, everything else as JSON.
func (d *decoder) value(n node) (string, bool) {
	v, ok := d.structure(n, 0)
	if s, isString := v.(string); isString || !ok {
		return s, ok
	}
	text, err := json.Marshal(v)
	if err != nil { // an infinite float or NaN
		d.fail(n, "has no JSON form", "put it in quotes")
		return "", false
	}
	return string(text), true
}

// structure returns n as what encoding/json takes.
func (d *decoder) structure(n node, depth int) (any, bool) {
	if depth > maxDepth {
		d.budget = -1
		return nil, false
	}
	switch n.yaml.Kind {
	case yaml.MappingNode:
		object := map[string]any{}
		complete := true
		for _, m := range d.members(n, depth) {
			v, ok := d.structure(d.visit(m.value, n.path), depth+1)
			object[m.name] = v
			complete = complete && ok
		}
		return object, complete
	case yaml.SequenceNode:
		list := make([]any, len(n.yaml.Content))
		for i, y := range n.yaml.Content {
			v, ok := d.structure(d.visit(y, n.path), depth+1)
			if !ok {
				return nil, false
			}
			list[i] = v
		}
		return list, true
	default:
		v, err := scalar(n.yaml)
		if err != nil {
			d.fail(n, "does not fit its tag", "remove the tag, or put it in quotes")
		}
		return v, err == nil
	}
}
