package vault

import (
	"bufio"
	"io"
)

// Messages returns the messages that a server sends on a stream, up to the first fault.
func Messages(conn io.ReadWriteCloser) [][]byte {
	s := &stream{conn: conn, input: bufio.NewReader(conn)}
	var all [][]byte
	for {
		message, err := s.next()
		if err != nil {
			return all
		}
		all = append(all, message)
	}
}

// NameOf tells which secret below dapr/ of the mount "kv" an event is about.
func NameOf(message []byte) (string, bool) {
	return (&store{config: config{enginePath: "kv", prefix: "dapr/"}}).nameOf(message)
}
