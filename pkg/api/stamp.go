package api

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/resolve"
)

// stamp says how good an answer is. Both protocols show it under the same names: HTTP headers, gRPC trailers.
type stamp struct {
	etag       string    // a strong entity tag, quoted; empty: none
	fetchedAt  time.Time // when the store last confirmed the oldest part
	stale      bool      // the store failed since
	version    string    // the store's version id; empty in a bulk answer
	incomplete int       // secrets left out of a bulk answer
}

func stampOf(r resolve.Result) stamp {
	return stamp{etag: entityTag(r.Digest), fetchedAt: r.FetchedAt, stale: r.Stale, version: r.Version}
}

// entityTag returns digest as an entity tag (RFC 9110, section 8.8.3).
func entityTag(digest resolve.Digest) string {
	var tag [2 + 2*len(digest)]byte
	tag[0], tag[len(tag)-1] = '"', '"'
	hex.Encode(tag[1:], digest[:])
	return string(tag[:])
}

// headerName is the name of a header in the form that each protocol's library keeps it in.
type headerName struct{ http, grpc string }

// maxStampHeaders is how many headers a stamp has at most.
const maxStampHeaders = 5

// each calls set for every header of the stamp.
func (s *stamp) each(set func(name headerName, value string)) {
	if s.etag != "" {
		set(headerName{"Etag", "etag"}, s.etag)
	}
	if age := time.Since(s.fetchedAt) / time.Second; age > 0 && !s.fetchedAt.IsZero() {
		set(headerName{"Age", "age"}, strconv.Itoa(int(age)))
	}
	if s.stale {
		set(headerName{"Keywell-Stale", "keywell-stale"}, "true")
	}
	if s.version != "" && printable(s.version) {
		set(headerName{"Keywell-Version", "keywell-version"}, s.version)
	}
	if s.incomplete > 0 {
		set(headerName{"Keywell-Incomplete", "keywell-incomplete"}, strconv.Itoa(s.incomplete))
	}
}

// printable reports whether s can be the value of a header in both protocols.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// matches reports whether an If-None-Match header names the stamp's entity tag (RFC 9110, section 13.1.2).
func (s *stamp) matches(ifNoneMatch []string) bool {
	if s.etag == "" {
		return false
	}
	for _, header := range ifNoneMatch {
		for tag := range strings.SplitSeq(header, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == s.etag || tag == "*" {
				return true
			}
		}
	}
	return false
}

// asksFresh reports whether Cache-Control headers ask for an answer from the store itself (RFC 9111, section 5.2.1.4).
func asksFresh(cacheControl []string) bool {
	for _, header := range cacheControl {
		for directive := range strings.SplitSeq(header, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-cache") {
				return true
			}
		}
	}
	return false
}
