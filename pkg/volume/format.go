package volume

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keywell/keywell/pkg/secret"
)

var (
	errNotBase64 = errors.New("value is not base64; remove the encoding")
	errNotText   = errors.New("value is not text; use format files or raw")
	errDotenv    = errors.New("value can't be written so that every reader of dotenv files reads it back; use another format")
)

// decode returns what v stands for in encoding e.
func decode(v secret.Value, e Encoding) (secret.Value, error) {
	if e == "" {
		return v, nil
	}
	text := bytes.Join(bytes.Fields(v.Reveal()), nil)
	enc := base64.StdEncoding
	if !bytes.HasSuffix(text, []byte("=")) {
		enc = base64.RawStdEncoding
	}
	plain, err := enc.AppendDecode(nil, text)
	if err != nil {
		return secret.Value{}, errNotBase64
	}
	return secret.New(plain), nil
}

// encodeJSON returns an object of strings. Keys and values are valid UTF-8, or they would not come back as they were.
func encodeJSON(fields map[string]string) secret.Value {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(fields) // strings, into memory: there is nothing to go wrong
	return secret.New(out.Bytes())
}

// encodeDotenv returns a line per field. Keys are variable names, values went through checkDotenv.
func encodeDotenv(fields map[string]string) secret.Value {
	var out []byte
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		out = append(out, key...)
		out = append(out, '=')
		out = appendDotenv(out, fields[key])
		out = append(out, '\n')
	}
	return secret.New(out)
}

// appendDotenv appends s in quotes.
//
// Single quotes, where a shell and the dotenv parsers (godotenv, and Docker Compose's descendant of it) agree that every
// character stands for itself, unless s holds one. Then double quotes, with a backslash before what is special in them.
func appendDotenv(out []byte, s string) []byte {
	if !strings.Contains(s, "'") {
		out = append(out, '\'')
		out = append(out, s...)
		return append(out, '\'')
	}
	out = append(out, '"')
	for i := range len(s) {
		if strings.IndexByte(`\"$`, s[i]) >= 0 {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return append(out, '"')
}

// checkDotenv refuses what no quoting gets through all readers: NUL (no variable can hold it), carriage returns
// (godotenv normalises line ends), and a final backslash (godotenv takes it for an escape of the closing quote); and,
// where double quotes are needed, a final double quote (godotenv trims it) and a backquote (Compose keeps the backslash
// that a shell needs before it).
func checkDotenv(s string) error {
	refused := strings.ContainsAny(s, "\x00\r") || strings.HasSuffix(s, `\`)
	if strings.Contains(s, "'") {
		refused = refused || strings.Contains(s, "`") || strings.HasSuffix(s, `"`)
	}
	if refused {
		return errDotenv
	}
	return nil
}

// isVariable tells whether s is the name of a shell variable (POSIX, XBD 3.216).
func isVariable(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// textOf returns v as the text that FormatJSON and FormatDotenv need.
func textOf(v secret.Value) (string, error) {
	if !utf8.Valid(v.Reveal()) {
		return "", errNotText
	}
	return string(v.Reveal()), nil
}
