package api

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

const (
	longestWait  = 5 * time.Minute
	eventTimeout = 10 * time.Second // for a client to take an event
)

// patience is how a request for a secret wants to be told of changes.
type patience struct {
	watch bool          // by a stream of events
	wait  time.Duration // by an answer that is held back for so long
	err   error         // a *fault: the request is not understood
}

// patienceOf returns what the query parameters watch and wait ask for. The first value of each counts.
func patienceOf(rawQuery string) (p patience) {
	if rawQuery == "" {
		return p
	}
	values, _ := url.ParseQuery(rawQuery) // malformed pairs are skipped, as net/http does
	if text, ok := values["watch"]; ok {
		var err error
		if p.watch, err = strconv.ParseBool(text[0]); text[0] != "" && err != nil {
			p.err = newFault(badWatch, reasonBadRequest, "watch is neither true nor false")
		}
		p.watch = p.watch || text[0] == ""
	}
	if text, ok := values["wait"]; ok {
		wait, err := parseWait(text[0])
		switch {
		case err != nil || wait < 0 || wait > longestWait:
			p.err = newFault(badWatch, reasonBadRequest, "wait is not a duration from 0s to 5m")
		case p.watch:
			p.err = newFault(badWatch, reasonBadRequest, "watch and wait exclude each other")
		}
		p.wait = wait
	}
	return p
}

// parseWait parses a duration with a unit, or a whole number of seconds.
func parseWait(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseUint(text, 10, 16); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	return time.ParseDuration(text)
}

// streamSecret answers with a stream of events (text/event-stream of the HTML standard, section 9.2) until the caller
// goes away, may no longer read the secret or the agent stops. Once the stream is open, failures are events.
func (h *httpSkin) streamSecret(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (string, error) {
	q := queryOf(r, rt)
	sub, store, err := h.subscribe(r.Context(), id, q)
	if err != nil {
		return "", err
	}
	defer sub.Close()
	s := openEventStream(w)
	s.last = strings.Trim(r.Header.Get("Last-Event-Id"), `"`)
	if s.comment("watching") != nil {
		return resultOK, nil
	}
	err = h.follow(r.Context(), sub, follower{
		id: id, readmit: h.readmit(r),
		tell: func(updates []watch.Update) error { return h.tellEvents(s, id, q, store, updates) },
		idle: func() error { return s.comment("") },
	})
	return s.end(err), nil
}

// readmit returns a func that attests the caller of r again.
func (h *httpSkin) readmit(r *http.Request) func(context.Context) (scope.Identity, error) {
	return func(context.Context) (scope.Identity, error) { return h.admit(r) }
}

// tellEvents writes updates of the secret that q asks for.
func (h *httpSkin) tellEvents(s *eventStream, id scope.Identity, q query, store Store, updates []watch.Update) error {
	for _, u := range updates {
		if u.Result == nil && u.Err == nil {
			if err := s.stale(u.Stale); err != nil {
				return err
			}
			continue
		}
		answer, err := h.answerUpdate(id, q, store, u)
		if err != nil {
			err = s.failure(asFault(err))
		} else {
			err = s.content(u, answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answerUpdate returns what a get would answer now. The error is a *fault.
func (c *core) answerUpdate(id scope.Identity, q query, store Store, u watch.Update) (secretAnswer, error) {
	if u.Err != nil {
		return c.unanswered(c.policy.Policy(), id, q, store, u.Err)
	}
	return c.answer(q, *u.Result)
}

// eventStream writes events.
type eventStream struct {
	w         http.ResponseWriter
	control   *http.ResponseController
	last      string // the id of the last event that the client has
	staleTold bool
}

const eventStreamType = "text/event-stream"

// openEventStream begins an answer that is a stream of events.
func openEventStream(w http.ResponseWriter) *eventStream {
	header := w.Header()
	header["Content-Type"] = []string{eventStreamType}
	header["Cache-Control"] = []string{"no-store"}
	header["X-Accel-Buffering"] = []string{"no"} // a proxy that buffers would hold events back
	w.WriteHeader(http.StatusOK)
	return &eventStream{w: w, control: http.NewResponseController(w)}
}

// end tells why the stream ends, if err is a *fault, and returns the result of the request: that a caller went away is
// nobody's concern.
func (s *eventStream) end(err error) (result string) {
	f, ok := errors.AsType[*fault](err)
	if !ok {
		return resultOK
	}
	_ = s.event("end", "", f.json())
	return resultOf(f)
}

// content tells what the secret holds, unless the client has it.
func (s *eventStream) content(u watch.Update, answer secretAnswer) error {
	id := ""
	if u.Digest != (resolve.Digest{}) {
		id = hex.EncodeToString(u.Digest[:])
	}
	if id == "" || id != s.last {
		s.last = id
		if err := s.event("secret", id, jsonFormat.secret(answer.fields)); err != nil {
			return err
		}
	}
	return s.stale(u.Stale)
}

// failure tells why there is no content now.
func (s *eventStream) failure(f *fault) error {
	s.last, s.staleTold = "", false // content that comes after it is told again
	return s.event("error", "", f.json())
}

// stale tells whether the store fails and the content is its last good one, unless the client knows.
func (s *eventStream) stale(stale bool) error {
	if s.staleTold == stale {
		return nil
	}
	s.staleTold = stale
	return s.event("stale", "", strconv.AppendBool(nil, stale))
}

// event writes one event. data is one line, which may end in a newline.
func (s *eventStream) event(name, id string, data []byte) error {
	b := append([]byte("event: "), name...)
	if id != "" {
		b = append(append(b, "\nid: "...), id...)
	}
	b = append(b, "\ndata: "...)
	b = append(b, data...)
	if b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	return s.write(append(b, '\n'))
}

func (s *eventStream) comment(text string) error { return s.write([]byte(":" + text + "\n\n")) }

// write sends b, unless the client does not take it in time.
func (s *eventStream) write(b []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(eventTimeout)) // a writer that can't is not a connection
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}
