package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/secret"
)

const canary = "c4n4ry-s3cr3t"

// holder reaches the Value through an unexported field, where fmt calls no methods.
type holder struct {
	v secret.Value
	m map[string]secret.Value
	p *secret.Value
}

func TestNothingPrintsAValue(t *testing.T) {
	v := secret.FromString(canary)
	h := holder{v: v, m: map[string]secret.Value{"a": v}, p: &v}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
		for _, x := range []any{v, &v, h, &h, []secret.Value{v}, map[string]secret.Value{"k": v}} {
			fmt.Fprintf(&out, verb+"\n", x)
		}
	}
	fmt.Fprintln(&out, errors.Join(fmt.Errorf("wrapped %v", v), fmt.Errorf("wrapped %v", h)))

	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("message", "value", v, "holder", h, "list", []secret.Value{v})
	}
	for _, x := range []any{v, h, map[string]secret.Value{"k": v}, struct{ V secret.Value }{v}} {
		if b, err := json.Marshal(x); err == nil {
			out.Write(b)
		}
		if b, err := xml.Marshal(x); err == nil {
			out.Write(b)
		}
		var buf bytes.Buffer
		_ = gob.NewEncoder(&buf).Encode(x)
		out.Write(buf.Bytes())
	}

	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%v", []byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("plaintext leaked as %q", form)
		}
	}
	if !strings.Contains(out.String(), secret.Placeholder) {
		t.Error("the placeholder never showed: the test printed nothing")
	}
}

func TestValue(t *testing.T) {
	var zero secret.Value
	if zero.Len() != 0 || zero.Reveal() != nil {
		t.Error("the zero Value is not empty")
	}
	v := secret.New([]byte{0, 1, 2})
	if !v.Equal(secret.New([]byte{0, 1, 2})) || v.Equal(zero) || v.Equal(secret.New([]byte{0, 1, 3})) {
		t.Error("Equal does not compare bytes")
	}
	if v.Digest() == zero.Digest() {
		t.Error("different bytes have one digest")
	}
}
