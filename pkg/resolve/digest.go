package resolve

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"maps"
	"slices"

	"github.com/keywell/keywell/pkg/secret"
)

// digester makes Digests: HMAC-SHA-256, cut to their length.
type digester struct{ key [sha256.Size]byte }

// of hashes the sorted names and the values, each with its length before it, so that no two contents run together.
func (d *digester) of(fields map[string]secret.Value) (digest Digest) {
	mac := hmac.New(sha256.New, d.key[:])
	length := func(n int) {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		_, _ = mac.Write(b[:])
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value := fields[name].Reveal()
		length(len(name))
		_, _ = io.WriteString(mac, name)
		length(len(value))
		_, _ = mac.Write(value)
	}
	copy(digest[:], mac.Sum(nil))
	return digest
}
