// Package secret holds secret bytes in a type that does not print.
//
// A Value can be passed through logs, errors, JSON and fmt by accident and shows only a placeholder. The bytes come
// out through Reveal and nowhere else, so the callers of Reveal are the complete list of places where plaintext leaves
// the type. The package imports nothing of Keywell and is safe for concurrent use.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// Placeholder is what every printer and encoder shows instead of a Value's bytes.
const Placeholder = "[redacted]"

// Value is an immutable sequence of secret bytes. The zero Value is empty.
//
// The bytes sit behind a func because fmt reaches the unexported fields of an enclosing struct without calling their
// methods: a []byte field would leak through %v there, a func prints as an address.
type Value struct{ reveal func() []byte }

// New returns a Value that owns b: the caller must not change b afterwards.
func New(b []byte) Value {
	return Value{reveal: func() []byte { return b }}
}

// FromString returns a Value with the bytes of s.
func FromString(s string) Value { return New([]byte(s)) }

// Reveal returns the plaintext. The slice belongs to the Value and must not be changed.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// Len returns the number of bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal compares in constant time. Whether the lengths differ is not hidden.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare(v.Reveal(), w.Reveal()) == 1
}

// Digest returns the SHA-256 of the bytes, for comparison inside this process. It must not be logged or stored: short
// secrets can be guessed from it.
func (v Value) Digest() [sha256.Size]byte { return sha256.Sum256(v.Reveal()) }

// String returns the placeholder.
func (Value) String() string { return Placeholder }

// GoString returns the placeholder, for %#v.
func (Value) GoString() string { return Placeholder }

// Format writes the placeholder for every verb, %x and %q included.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Placeholder) }

// LogValue returns the placeholder.
func (Value) LogValue() slog.Value { return slog.StringValue(Placeholder) }

// MarshalText returns the placeholder; encoding/json map keys and most encoders use it.
func (Value) MarshalText() ([]byte, error) { return []byte(Placeholder), nil }

// MarshalJSON returns the placeholder as a JSON string.
func (Value) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, Placeholder), nil }

// Interface guards.
var (
	_ fmt.Formatter  = Value{}
	_ fmt.GoStringer = Value{}
	_ slog.LogValuer = Value{}
)
