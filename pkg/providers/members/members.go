// Package members takes values apart that are JSON objects, for stores whose secrets have one value and that are told to
// make fields of its members.
package members

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/keywell/keywell/pkg/secret"
)

// Of takes a JSON object apart: member name → value, strings as they are and everything else as JSON text, to the
// last digit of a number. With a separator, objects and arrays within are taken apart too, under the names on the way to
// each value (an element's is its index) with the separator between them; of two values under one name the last in the
// order of names stays. It returns nil for what is no JSON object.
func Of(text, separator string) map[string]secret.Value {
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &object) != nil || object == nil {
		return nil
	}
	fields := make(map[string]secret.Value, len(object))
	for _, name := range slices.Sorted(maps.Keys(object)) {
		add(fields, name, object[name], separator)
	}
	return fields
}

func add(fields map[string]secret.Value, name string, raw json.RawMessage, separator string) {
	if separator != "" {
		var object map[string]json.RawMessage
		var array []json.RawMessage
		if json.Unmarshal(raw, &object) == nil && object != nil {
			for _, member := range slices.Sorted(maps.Keys(object)) {
				add(fields, name+separator+member, object[member], separator)
			}
			return
		}
		if json.Unmarshal(raw, &array) == nil && array != nil {
			for i, inner := range array {
				add(fields, name+separator+strconv.Itoa(i), inner, separator)
			}
			return
		}
	}
	fields[name] = value(raw)
}

func value(raw json.RawMessage) secret.Value {
	var text string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return secret.FromString(text)
	}
	var compact bytes.Buffer
	_ = json.Compact(&compact, raw) // it was decoded, so it is JSON
	return secret.New(compact.Bytes())
}
