package api

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// field is a field of a secret, ready to be encoded: both parts are UTF-8 text.
type field struct {
	name string
	text []byte
}

// errBinary marks a secret that the API can't carry.
var errBinary = errors.New("the value is not UTF-8 text, which is all this API can carry; mount the secret as a volume instead")

// reveal appends the fields of a secret to dst, sorted by name. It fails for values and names that are not text.
func reveal(dst []field, fields map[string]secret.Value) ([]field, error) {
	first := len(dst)
	for name, value := range fields {
		text := value.Reveal()
		if !utf8.ValidString(name) || !utf8.Valid(text) {
			return dst, providers.Errorf(providers.Invalid, "%w", errBinary)
		}
		dst = append(dst, field{name, text})
	}
	slices.SortFunc(dst[first:], func(a, b field) int { return strings.Compare(a.name, b.name) })
	return dst, nil
}

// format is the form of an encoded answer.
type format uint8

const (
	jsonFormat  format = iota // what encoding/json's Encoder writes for a map
	protoFormat               // a marshalled GetSecretResponse or GetBulkSecretResponse
)

// secret returns the answer to a get.
func (f format) secret(fields []field) []byte {
	const perField = 12 // bytes around a name and a value, in either format; escapes are not counted
	size := perField
	for _, f := range fields {
		size += len(f.name) + len(f.text) + perField
	}
	body := make([]byte, 0, size)
	if f == protoFormat {
		return appendProtoFields(body, fields)
	}
	return append(appendJSONFields(body, fields), '\n')
}

// bulkEncoder builds the answer to a bulk call from secrets in the order of their names.
type bulkEncoder struct {
	format  format
	body    []byte
	scratch []byte
	count   int
}

// add appends one secret.
func (e *bulkEncoder) add(name string, fields []field) {
	e.count++
	if e.format == protoFormat {
		e.scratch = appendProtoFields(e.scratch[:0], fields)
		e.body = appendProtoEntry(e.body, name, e.scratch)
		return
	}
	separator := byte(',')
	if e.count == 1 {
		separator = '{'
	}
	e.body = appendJSONString(append(e.body, separator), name)
	e.body = appendJSONFields(append(e.body, ':'), fields)
}

// bytes returns the finished answer.
func (e *bulkEncoder) bytes() []byte {
	switch {
	case e.format == protoFormat:
		return e.body
	case e.count == 0:
		return []byte("{}\n")
	default:
		return append(e.body, '}', '\n')
	}
}

// appendProtoFields appends fields as field 1 of a message, of type map<string, string>: Dapr's GetSecretResponse.data
// and SecretResponse.secrets.
func appendProtoFields(dst []byte, fields []field) []byte {
	for _, f := range fields {
		dst = appendProtoEntry(dst, f.name, f.text)
	}
	return dst
}

// appendProtoEntry appends one entry of a map with string keys that is field 1 of a message. A string, bytes and a
// message have one form on the wire.
func appendProtoEntry(dst []byte, key string, value []byte) []byte {
	const keyTag, valueTag = 1<<3 | 2, 2<<3 | 2 // field numbers of an entry, wire type 2
	dst = append(dst, 1<<3|2)
	dst = protowire.AppendVarint(dst, uint64(2+protowire.SizeBytes(len(key))+protowire.SizeBytes(len(value))))
	dst = protowire.AppendString(append(dst, keyTag), key)
	return protowire.AppendBytes(append(dst, valueTag), value)
}

func appendJSONFields(dst []byte, fields []field) []byte {
	dst = append(dst, '{')
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONString(dst, f.name)
		dst = appendJSONString(append(dst, ':'), f.text)
	}
	return append(dst, '}')
}

// appendJSONString appends s, which is UTF-8, as encoding/json writes it with HTML escaping on. Most strings need no
// escape and are copied; the others are left to encoding/json.
func appendJSONString[S string | []byte](dst []byte, s S) []byte {
	if plain(s) {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	quoted, err := json.Marshal(string(s))
	if err != nil { // a string always has a JSON form
		return append(dst, `""`...)
	}
	return append(dst, quoted...)
}

// plain reports whether s is ASCII without anything that JSON or HTML escapes.
func plain[S string | []byte](s S) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c >= utf8.RuneSelf, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}
