package vault

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/keywell/keywell/pkg/secret"
)

// text returns a JSON value as a field: a string as its characters, anything else as its JSON text. Null is empty.
func text(raw json.RawMessage) secret.Value {
	if isNull(raw) {
		return secret.Value{}
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return secret.FromString(s)
	}
	return secret.New(bytes.Clone(raw))
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// plain returns a JSON string that is not secret, or nothing.
func plain(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s) // something else is nothing
	return s
}

// number returns a JSON number, or 0.
func number(raw json.RawMessage) int64 {
	n, _ := strconv.ParseInt(string(raw), 10, 64) // something else is 0
	return n
}

// field returns a member of a JSON object that is a string, or nothing.
func field(raw json.RawMessage, name string) string {
	var object map[string]json.RawMessage
	_ = json.Unmarshal(raw, &object) // something else has no members
	return plain(object[name])
}

// truthy reads a boolean as manifests and requests write it.
func truthy(s string) bool {
	v, err := strconv.ParseBool(strings.ToLower(s))
	return err == nil && v
}
