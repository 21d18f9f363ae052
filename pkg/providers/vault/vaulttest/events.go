package vaulttest

import (
	"crypto/sha1" // RFC 6455 wants it
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Events are those of Vault Enterprise, which a test's own Vault does not have: a handler for a Proxy, and Emit.
type Events struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	Asked chan string // told of each token that subscribes, if it is not nil
}

// Serve answers requests for events, and reports false for all others.
func (e *Events) Serve(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/v1/sys/events/subscribe/kv-v2/") {
		return false
	}
	if r.Header.Get("X-Vault-Token") == "" || r.URL.Query().Get("json") != "true" || r.Header.Get("Upgrade") != "websocket" {
		w.WriteHeader(http.StatusBadRequest)
		return true
	}
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n")
	_ = buffered.Flush()
	e.mu.Lock()
	if e.conns == nil {
		e.conns = map[net.Conn]bool{}
	}
	e.conns[conn] = true
	e.mu.Unlock()
	if e.Asked != nil {
		e.Asked <- r.Header.Get("X-Vault-Token")
	}
	return true
}

// Emit tells every subscriber that something happened to a path, such as mount/data/name. A ping comes before it, and the
// message comes in two parts.
func (e *Events) Emit(path string) {
	message, _ := json.Marshal(map[string]any{"data": map[string]any{
		"event":      map[string]any{"id": "1", "metadata": map[string]any{"path": path, "operation": "data-write"}},
		"event_type": "kv-v2/data-write",
	}})
	half := len(message) / 2
	frames := append([]byte{0x89, 2, 'h', 'i', 0x01, byte(half)}, message[:half]...)
	frames = append(frames, 0x80, 126, 0, byte(len(message)-half))
	e.send(append(frames, message[half:]...))
}

// Break ends every subscription: with the closing handshake if asked to, or without.
func (e *Events) Break(politely bool) {
	if politely {
		e.send([]byte{0x88, 0})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for conn := range e.conns {
		conn.Close()
	}
	e.conns = nil
}

func (e *Events) send(b []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for conn := range e.conns {
		if _, err := conn.Write(b); err != nil {
			delete(e.conns, conn)
		}
	}
}
