package api

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// The paths of the API. Only prefix v1.0 exists.
const (
	pathSecrets  = "/v1.0/secrets/"
	pathMetadata = "/v1.0/metadata"
	pathHealth   = "/v1.0/healthz"
	pathOutbound = "/v1.0/healthz/outbound"
)

// route is what a request line asks for.
type route struct {
	op       operation
	store    string
	name     string // of a secret, or the key of a metadata entry
	outbound bool   // the other health route
	health   bool   // the path is below that of health, whatever the method
}

// parseRoute finds the route for a method and an escaped path, as Dapr's router does: the path is cleaned while it is
// still escaped, so that an escaped slash or dot is part of a name, and each name is then unescaped as in a query, so
// that a plus is a space. What matches no route has operation opOther.
func parseRoute(method, escapedPath string) route {
	p := path.Clean(escapedPath)
	r := route{op: opOther, health: strings.HasPrefix(p, pathHealth)}
	switch {
	case method == http.MethodGet && p == pathHealth:
		r.op = opHealth
	case method == http.MethodGet && p == pathOutbound:
		r.op, r.outbound = opHealth, true
	case method == http.MethodGet && p == pathMetadata:
		r.op = opMetadata
	case method == http.MethodPut && strings.HasPrefix(p, pathMetadata+"/"):
		r.metadataKey(p[len(pathMetadata)+1:])
	case method == http.MethodGet && strings.HasPrefix(p, pathSecrets):
		r.secret(p[len(pathSecrets):])
	}
	return r
}

// metadataKey makes r the route that sets an entry, if key is one segment.
func (r *route) metadataKey(key string) {
	name, err := url.QueryUnescape(key)
	if err != nil || strings.Contains(key, "/") {
		return
	}
	r.op, r.name = opSetMetadata, name
}

// secret makes r the route to the store in the first segment and the secret in all the others. Only an unescaped
// "bulk" right after the store is the bulk call.
func (r *route) secret(rest string) {
	segment, key, ok := strings.Cut(rest, "/")
	if !ok {
		return
	}
	store, err := url.QueryUnescape(segment)
	if err != nil {
		return
	}
	if key == "bulk" {
		r.op, r.store = opBulk, store
		return
	}
	name, err := url.QueryUnescape(key)
	if err != nil {
		return
	}
	r.op, r.store, r.name = opGet, store, name
}

// requestMetadata returns Dapr's request metadata: the query parameters called metadata.<key>, of which the first
// value counts.
func requestMetadata(rawQuery string) map[string]string {
	if rawQuery == "" {
		return nil
	}
	values, _ := url.ParseQuery(rawQuery) // malformed pairs are skipped, as net/http does
	var metadata map[string]string
	for name, v := range values {
		if key, ok := strings.CutPrefix(name, "metadata."); ok {
			if metadata == nil {
				metadata = make(map[string]string, len(values))
			}
			metadata[key] = v[0]
		}
	}
	return metadata
}
