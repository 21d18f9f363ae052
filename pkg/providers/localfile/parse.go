package localfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keywell/keywell/pkg/secret"
)

// maxDepth is how deeply objects and arrays may be nested.
const maxDepth = 100

// layout says which secrets a file's tree stands for; see parse.
type layout struct {
	separator   string // between the keys of a path
	multiValued bool
}

// content is what a secrets file holds: secret name → field name → value. It is immutable.
type content map[string]map[string]secret.Value

// parse reads the secrets in data, a JSON object.
//
// Without multiValued, each leaf of the tree is a secret with one field of the same name: the keys and array indices
// from the root to the leaf, joined by the separator. With it, each member of the root is a secret: an object or array
// has a field per leaf, named by the path below the member, and a leaf has one field, named as the secret.
//
// A string stands for its text, a number for its text in the file, true and false for those words and null for no
// bytes. An object or array without leaves adds nothing: no secret, or a secret without fields.
func parse(data []byte, l layout) (content, error) {
	if err := check(data); err != nil {
		return nil, err
	}
	p := &parser{
		layout:  l,
		data:    data,
		dec:     json.NewDecoder(bytes.NewReader(data)),
		secrets: content{},
		origin:  map[[2]string]string{},
	}
	p.dec.UseNumber()
	if err := p.value(nil); err != nil {
		return nil, err
	}
	return p.secrets, nil
}

// check reports what is not JSON, not UTF-8 or not an object. The decoder's own messages are not used: they quote
// characters of the file.
func check(data []byte) error {
	if at := firstInvalid(data); at < len(data) {
		return errorAt(data, at, "not valid UTF-8")
	}
	// With a space behind it, a file that ends too early fails beyond its last byte, and no other file does.
	var raw json.RawMessage
	err := json.Unmarshal(append(data[:len(data):len(data)], ' '), &raw)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && int(syntax.Offset) <= len(data) {
		return errorAt(data, int(syntax.Offset)-1, "not valid JSON")
	} else if err != nil {
		return errorAt(data, len(data), "not valid JSON: the file ends too early")
	}
	start := len(data) - len(bytes.TrimLeft(data, " \t\r\n"))
	if data[start] != '{' {
		return errorAt(data, start, "the outermost value is not an object")
	}
	return nil
}

// firstInvalid returns the offset of the first byte that is not UTF-8, or len(data). The decoder would replace it.
func firstInvalid(data []byte) int {
	at := 0
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n == 1 {
			return at
		}
		at += n
	}
	return at
}

// errorAt returns an error with the line and column (in characters, both from 1) of offset at.
func errorAt(data []byte, at int, format string, args ...any) error {
	before := data[:max(at, 0)]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: %s", line, column, fmt.Sprintf(format, args...))
}

// parser walks the tokens of data, which check has passed.
type parser struct {
	layout  layout
	data    []byte
	dec     *json.Decoder
	secrets content
	origin  map[[2]string]string // secret and field name → JSON pointer of the leaf that made it
}

// value reads the next value, which is at path.
func (p *parser) value(path []string) error {
	token, err := p.dec.Token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return p.leaf(path, text(token))
	}
	if len(path) >= maxDepth {
		return p.errorf("nested more than %d levels deep", maxDepth)
	}
	if p.layout.multiValued && len(path) == 1 {
		if path[0] == "" {
			return p.errorf("key %s makes a secret without a name", pointer(path))
		}
		p.secrets[path[0]] = map[string]secret.Value{}
	}
	if delim == '{' {
		err = p.object(path)
	} else {
		err = p.array(path)
	}
	if err != nil {
		return err
	}
	_, err = p.dec.Token() // the closing delimiter
	return err
}

func (p *parser) object(path []string) error {
	seen := map[string]bool{}
	for p.dec.More() {
		token, err := p.dec.Token()
		if err != nil {
			return err
		}
		name := token.(string)
		member := append(path[:len(path):len(path)], name)
		if seen[name] {
			return p.errorf("key %s occurs twice", pointer(member))
		}
		seen[name] = true
		if err := p.value(member); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) array(path []string) error {
	for i := 0; p.dec.More(); i++ {
		if err := p.value(append(path[:len(path):len(path)], strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

// leaf stores the value at path.
func (p *parser) leaf(path []string, v secret.Value) error {
	name := strings.Join(path, p.layout.separator)
	field := name
	if p.layout.multiValued {
		name, field = path[0], path[0]
		if len(path) > 1 {
			field = strings.Join(path[1:], p.layout.separator)
		}
	}
	if name == "" {
		return p.errorf("key %s makes a secret without a name", pointer(path))
	}
	at := [2]string{name, field}
	if first, taken := p.origin[at]; taken {
		return p.errorf("%s and %s both make %q: rename one key or set another nestedSeparator", first, pointer(path), field)
	}
	p.origin[at] = pointer(path)
	if p.secrets[name] == nil {
		p.secrets[name] = map[string]secret.Value{}
	}
	p.secrets[name][field] = v
	return nil
}

// text returns the text of a scalar.
func text(token json.Token) secret.Value {
	switch t := token.(type) {
	case string:
		return secret.FromString(t)
	case json.Number:
		return secret.FromString(t.String())
	case bool:
		return secret.FromString(strconv.FormatBool(t))
	default: // null
		return secret.Value{}
	}
}

// errorf returns an error at the end of the token that was read last.
func (p *parser) errorf(format string, args ...any) error {
	return errorAt(p.data, int(p.dec.InputOffset())-1, format, args...)
}

// pointer returns path as a JSON pointer (RFC 6901), in which different paths look different whatever is in their keys.
func pointer(path []string) string {
	var b strings.Builder
	for _, key := range path {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
	}
	return strconv.Quote(b.String())
}
