package api

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// The paths of the API. Only prefix v1.0 exists, and for configuration also that of its first version.
const (
	pathSecrets  = "/v1.0/secrets/"
	pathMetadata = "/v1.0/metadata"
	pathHealth   = "/v1.0/healthz"
	pathOutbound = "/v1.0/healthz/outbound"

	pathConfiguration       = "/v1.0/configuration/"
	pathConfigurationAlpha1 = "/v1.0-alpha1/configuration/"
)

// route is what a request line asks for.
type route struct {
	op       operation
	store    string
	name     string // of a secret, the key of a metadata entry, or the id of a subscription
	outbound bool   // the other health route
	health   bool   // the path is below that of health, whatever the method
	patience
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
	case method == http.MethodGet && strings.HasPrefix(p, pathConfiguration):
		r.configuration(p[len(pathConfiguration):])
	case method == http.MethodGet && strings.HasPrefix(p, pathConfigurationAlpha1):
		r.configuration(p[len(pathConfigurationAlpha1):])
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

// configuration makes r one of the routes of the configuration API: {store}, {store}/subscribe or
// {store}/{id}/unsubscribe.
func (r *route) configuration(rest string) {
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		name, err := url.QueryUnescape(s)
		if err != nil {
			return
		}
		segments[i] = name
	}
	switch {
	case len(segments) == 1:
		r.op = opGetConfiguration
	case len(segments) == 2 && segments[1] == "subscribe":
		r.op = opSubscribe
	case len(segments) == 3 && segments[2] == "unsubscribe":
		r.op, r.name = opUnsubscribe, segments[1]
	default:
		return
	}
	r.store = segments[0]
}

// ask makes r what the query wants in place of an answer at once.
func (r *route) ask(rawQuery string) {
	if r.op != opGet && r.op != opBulk {
		return
	}
	r.patience = patienceOf(rawQuery)
	switch {
	case r.err != nil || !r.watch && r.wait == 0:
	case r.op == opBulk:
		r.err = newFault(badWatch, reasonBadRequest, "one secret can be watched, or all of a store over gRPC")
	case r.watch:
		r.op = opWatch
	default:
		r.op = opWait
	}
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
