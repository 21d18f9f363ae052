package vault

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/hashicorp/vault/api"

	"github.com/keywell/keywell/pkg/providers"
)

// stream is a WebSocket (RFC 6455) on which only the server has something to say. It is for one reader; close may be
// called by others.
type stream struct {
	conn  io.ReadWriteCloser
	input *bufio.Reader
	once  sync.Once
}

// The frames that a server sends.
const (
	frameContinuation = 0x0
	frameText         = 0x1
	frameBinary       = 0x2
	frameClose        = 0x8
	framePing         = 0x9
	framePong         = 0xA

	final  = 0x80
	masked = 0x80

	maxMessage = 1 << 20
)

// upgrade opens a stream. The error has a Kind.
func (c *client) upgrade(ctx context.Context, r request) (*stream, error) {
	to := *c.addr
	to.Path, to.RawPath, to.RawQuery = c.addr.Path+"/v1/"+r.path, "", "json=true"
	req, err := http.NewRequestWithContext(ctx, r.method, to.String(), http.NoBody)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "%s: no request", r)
	}
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // documented never to fail
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": base64.StdEncoding.EncodeToString(nonce),
		api.AuthHeaderName:  string(r.token.Reveal()), api.RequestHeaderName: "true",
	} {
		req.Header.Set(name, value)
	}
	if c.namespace != "" {
		req.Header.Set(api.NamespaceHeaderName, c.namespace)
	}
	resp, err := c.events.RoundTrip(req)
	if err != nil {
		return nil, failure(ctx, r, nil, err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		return nil, failure(ctx, r, &api.Response{Response: resp}, nil)
	}
	return &stream{conn: conn, input: bufio.NewReader(conn)}, nil
}

func (s *stream) close() { s.once.Do(func() { s.conn.Close() }) }

var (
	errStreamEnded = errors.New("the server has ended the stream")
	errStream      = errors.New("this is no WebSocket message")
)

// next returns the next message. It answers pings meanwhile.
func (s *stream) next() ([]byte, error) {
	var message []byte
	for {
		opcode, last, payload, err := s.frame()
		if err != nil {
			return nil, err
		}
		switch opcode {
		case framePing:
			if err := s.pong(payload); err != nil {
				return nil, err
			}
		case framePong:
		case frameClose:
			return nil, errStreamEnded
		case frameText, frameBinary, frameContinuation:
			if message = append(message, payload...); len(message) > maxMessage {
				return nil, errStream
			}
			if last {
				return message, nil
			}
		default:
			return nil, errStream
		}
	}
}

func (s *stream) frame() (opcode byte, last bool, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(s.input, head[:]); err != nil {
		return 0, false, nil, fmt.Errorf("read: %w", err)
	}
	size := uint64(head[1] &^ masked)
	for code, width := range map[uint64]int{126: 2, 127: 8} {
		if uint64(head[1]&^masked) != code {
			continue
		}
		var long [8]byte
		if _, err := io.ReadFull(s.input, long[8-width:]); err != nil {
			return 0, false, nil, fmt.Errorf("read: %w", err)
		}
		size = binary.BigEndian.Uint64(long[:])
	}
	if head[1]&masked != 0 || size > maxMessage { // a server masks nothing
		return 0, false, nil, errStream
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(s.input, payload); err != nil {
		return 0, false, nil, fmt.Errorf("read: %w", err)
	}
	return head[0] & 0x0F, head[0]&final != 0, payload, nil
}

// pong answers a ping. A client masks what it sends; the mask may be anything, zero too.
func (s *stream) pong(payload []byte) error {
	const longest = 125
	if len(payload) > longest {
		return errStream
	}
	frame := append([]byte{final | framePong, masked | byte(len(payload)), 0, 0, 0, 0}, payload...)
	_, err := s.conn.Write(frame)
	return err
}
