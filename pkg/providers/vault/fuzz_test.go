package vault_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/providers/vault"
)

// connection is what a server has sent; what it is sent is counted.
type connection struct {
	*bytes.Reader
	sent int
}

func (c *connection) Write(p []byte) (int, error) {
	c.sent += len(p)
	return len(p), nil
}

func (c *connection) Close() error { return nil }

// FuzzStream looks for a panic, for messages that hold more than was sent, and for an answer without a ping.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0x81, 2, 'h', 'i', 0x89, 1, 'p', 0x01, 1, 'a', 0x80, 126, 0, 1, 'b', 0x88, 0})
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x'})
	f.Add([]byte{0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'})
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &connection{Reader: bytes.NewReader(sent)}
		size := 0
		for _, message := range vault.Messages(conn) {
			size += len(message)
		}
		if size > len(sent) {
			t.Errorf("%d bytes in messages of %d", size, len(sent))
		}
		if conn.sent > 3*len(sent) {
			t.Errorf("%d bytes answered to %d", conn.sent, len(sent))
		}
	})
}

// FuzzEvent looks for a panic, and for a name that is not in the event.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"data":{"event":{"metadata":{"path":"kv/data/dapr/db"}}}}`))
	f.Add([]byte(`{"data":{"event":{"metadata":{"path":"kv/"}}}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, message []byte) {
		if name, ours := vault.NameOf(message); !ours && name != "" && strings.HasPrefix(name, "dapr/") {
			t.Errorf("name %q of what is not in the store", name)
		}
	})
}
