package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// errTooLarge is daprd's text for a body over the limit.
var errTooLarge = errors.New("stream too large")

// httpSkin translates between HTTP and the core.
type httpSkin struct {
	*core
	gate    *gate
	health  *health
	maxBody int
}

// peerKey is the key of the connection's remote address in a request's context.
type peerKey struct{}

// withPeer notes who connected; it is the http.Server's ConnContext.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, c.RemoteAddr())
}

// ServeHTTP answers one request.
func (h *httpSkin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	rt := parseRoute(r.Method, r.URL.EscapedPath())
	rt.ask(r.URL.RawQuery)
	result := h.serve(w, r, rt)
	took := time.Since(begun)
	h.metrics.request("http", rt.op, result, took)
	h.logRequest(r.Context(), "http", rt.op, rt.store, rt.name, result, took)
}

// serve answers the request and returns its result for metrics.
func (h *httpSkin) serve(w http.ResponseWriter, r *http.Request, rt route) string {
	if rt.op == opHealth {
		return h.serveHealth(w, r, rt)
	}
	if !rt.health {
		if err := setTrace(w.Header(), r.Header); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return resultBadRequest
		}
	}
	id, err := h.admit(r)
	if err != nil {
		http.Error(w, "invalid api token", http.StatusUnauthorized)
		return resultUnauthenticated
	}
	result, err := h.serveCaller(w, r, rt, id)
	if err != nil {
		f := asFault(err)
		writeFault(w, f)
		return resultOf(f)
	}
	return result
}

// admit returns who calls.
func (h *httpSkin) admit(r *http.Request) (scope.Identity, error) {
	peer, _ := r.Context().Value(peerKey{}).(net.Addr)
	e := Evidence{Peer: peer}
	if token := r.Header.Get(httpTokenHeader); token != "" {
		e.Token = secret.FromString(token)
	}
	return h.gate.admit(r.Context(), e)
}

// serveCaller answers a caller that was let in. Nothing has been written if it returns an error.
func (h *httpSkin) serveCaller(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (result string, err error) {
	if rt.err != nil {
		return "", rt.err
	}
	switch rt.op {
	case opGet, opWait:
		return h.getSecret(w, r, rt, id)
	case opWatch:
		return h.streamSecret(w, r, rt, id)
	case opGetConfiguration:
		return h.getConfiguration(w, r, rt, id)
	case opSubscribe:
		return h.subscribeConfiguration(w, r, rt, id)
	case opUnsubscribe:
		return h.endSubscription(w, rt, id)
	case opBulk:
		return h.getBulk(w, r, rt, id)
	case opMetadata:
		return resultOK, h.getMetadata(w, r, id)
	case opSetMetadata:
		return resultOK, h.setMetadata(w, r, rt, id)
	default:
		return "", newFault(unmatched, reasonUnmatched)
	}
}

func (h *httpSkin) getSecret(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (string, error) {
	if err := h.checkBody(w, r, func() proto.Message { return &runtimev1pb.GetSecretRequest{} }); err != nil {
		return "", err
	}
	q := queryOf(r, rt)
	answer, err := h.get(r.Context(), id, q)
	if err == nil && rt.wait > 0 && answer.matches(r.Header["If-None-Match"]) {
		if err := h.await(r.Context(), follower{id: id, readmit: h.readmit(r)}, q, answer.etag, rt.wait); err != nil {
			return "", err
		}
		q.fresh = false // what was waited for is in the cache
		answer, err = h.get(r.Context(), id, q)
	}
	if err != nil {
		return "", err
	}
	if answer.none {
		w.WriteHeader(http.StatusNoContent)
		return resultOK, nil
	}
	if answer.notModified(w, r) {
		return resultNotModified, nil
	}
	writeJSON(w, jsonFormat.secret(answer.fields))
	return resultOK, nil
}

func (h *httpSkin) getBulk(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (string, error) {
	if err := h.checkBody(w, r, func() proto.Message { return &runtimev1pb.GetBulkSecretRequest{} }); err != nil {
		return "", err
	}
	answer, err := h.bulk(r.Context(), id, queryOf(r, rt), jsonFormat)
	if err != nil {
		return "", err
	}
	if answer.notModified(w, r) {
		return resultNotModified, nil
	}
	writeJSON(w, answer.body)
	return resultOK, nil
}

func (h *httpSkin) getMetadata(w http.ResponseWriter, r *http.Request, id scope.Identity) error {
	if err := h.checkBody(w, r, func() proto.Message { return &runtimev1pb.GetMetadataRequest{} }); err != nil {
		return err
	}
	body, err := json.Marshal(h.describe(id))
	if err != nil {
		return err
	}
	writeJSON(w, append(body, '\n'))
	return nil
}

func (h *httpSkin) setMetadata(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) error {
	value, err := h.readBody(w, r)
	if err != nil {
		return err
	}
	if err := h.added.set(id, rt.name, string(value)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *httpSkin) serveHealth(w http.ResponseWriter, r *http.Request, rt route) string {
	var err error
	if rt.outbound {
		err = h.health.outbound()
	} else {
		err = h.health.check(r.URL.Query())
	}
	if err != nil {
		writeFault(w, asFault(err))
		return resultOf(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return resultOK
}

// queryOf returns what a request to one of the secrets routes asks for.
func queryOf(r *http.Request, rt route) query {
	return query{
		store:    rt.store,
		name:     rt.name,
		metadata: requestMetadata(r.URL.RawQuery),
		fresh:    asksFresh(r.Header["Cache-Control"]),
	}
}

// checkBody reads the body, which Dapr takes for the JSON form of the gRPC request although the URL says everything:
// it must only be well formed.
func (h *httpSkin) checkBody(w http.ResponseWriter, r *http.Request, message func() proto.Message) error {
	body, err := h.readBody(w, r)
	if err != nil || len(body) == 0 {
		return err
	}
	options := protojson.UnmarshalOptions{DiscardUnknown: true, AllowPartial: true}
	if err := options.Unmarshal(body, message()); err != nil {
		return newFault(malformed, reasonBadRequest, err)
	}
	return nil
}

// readBody returns the body, up to the limits of size and time. The error is a *fault.
func (h *httpSkin) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyReadTimeout)) // a writer that can't is not a connection
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(h.maxBody)+1))
	if err == nil && len(body) > h.maxBody {
		err = errTooLarge
	}
	if err != nil {
		return nil, newFault(bodyRead, reasonBadRequest, err) // the deadline stays: net/http reads what is left
	}
	_ = control.SetReadDeadline(time.Time{}) // or else the call itself would inherit it
	return body, nil
}

// notModified sets the headers of an answer and, if the caller has it already, says so.
func (s *stamp) notModified(w http.ResponseWriter, r *http.Request) bool {
	header := w.Header()
	values := make([]string, 0, maxStampHeaders) // of all headers
	s.each(func(name headerName, value string) {
		values = append(values, value)
		header[name.http] = values[len(values)-1 : len(values) : len(values)]
	})
	if !s.matches(r.Header["If-None-Match"]) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

func writeJSON(w http.ResponseWriter, body []byte) {
	writeBody(w, http.StatusOK, body)
}

// writeFault writes a failure as Dapr does.
func writeFault(w http.ResponseWriter, f *fault) {
	if f.retryAfter > 0 {
		seconds := (f.retryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	writeBody(w, f.status, f.json())
}

// selfCounted is the size of body up to which net/http sets Content-Length by itself, with less work. Source: net/http,
// bufferBeforeChunkingSize.
const selfCounted = 2 << 10

// jsonType is the Content-Type of every answer. Headers share it: net/http only reads them.
var jsonType = []string{"application/json"}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	header := w.Header()
	header["Content-Type"] = jsonType
	if len(body) > selfCounted {
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that went away is nobody's concern
}

// logRequest writes the debug record of one request.
func (c *core) logRequest(ctx context.Context, protocol string, op operation, store, name, result string, took time.Duration) {
	if !c.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	c.logger.LogAttrs(ctx, slog.LevelDebug, "request answered",
		slog.String("protocol", protocol), slog.String("operation", string(op)), slog.String("store", store),
		slog.String("secret", name), slog.String("result", result), slog.Duration("duration", took))
}
