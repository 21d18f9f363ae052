package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/protobuf/proto"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/watch"
)

func (h *httpSkin) getConfiguration(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (string, error) {
	if err := h.checkBody(w, r, func() proto.Message { return &runtimev1pb.GetConfigurationRequest{} }); err != nil {
		return "", err
	}
	s, err := newSelection(queryOf(r, rt), r.URL.Query()["key"])
	if err != nil {
		return "", err
	}
	items, _, err := h.configuration(r.Context(), id, s)
	if err != nil {
		return "", configurationFault(err, configurationGet, s)
	}
	if len(items) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return resultOK, nil
	}
	body, err := json.Marshal(items)
	if err != nil {
		return "", err
	}
	writeJSON(w, append(body, '\n'))
	return resultOK, nil
}

// subscribeConfiguration answers a caller that accepts a stream of events with one. Others it answers as daprd does where it
// can't call its app: it would deliver updates by requests to the app's port, and the agent knows no such port of its
// callers.
func (h *httpSkin) subscribeConfiguration(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (string, error) {
	if !accepts(r, eventStreamType) {
		f := newFault(noAppChannel, reasonNoAppChannel)
		f.store = rt.store
		f.hint = "send Accept: " + eventStreamType + " and read the updates from the answer, or subscribe over gRPC"
		return "", f
	}
	return h.streamConfiguration(w, r, rt, id)
}

// accepts tells whether a request names a media type among those that it accepts.
func accepts(r *http.Request, mediaType string) bool {
	for _, line := range r.Header["Accept"] {
		for one := range strings.SplitSeq(line, ",") {
			if t, _, err := mime.ParseMediaType(one); err == nil && t == mediaType {
				return true
			}
		}
	}
	return false
}

// itemsEvent is what a subscription is told, in the form in which daprd tells its app.
type itemsEvent struct {
	ID    string          `json:"id"`
	Items map[string]item `json:"items,omitempty"`
}

// streamConfiguration answers with a stream of events: first the subscription's id, then what changes, until the caller goes
// away, unsubscribes or may no longer be told, or the agent stops.
func (h *httpSkin) streamConfiguration(w http.ResponseWriter, r *http.Request, rt route, id scope.Identity) (string, error) {
	s, err := newSelection(queryOf(r, rt), r.URL.Query()["key"])
	if err != nil {
		return "", err
	}
	ch, err := h.subscribeItems(r.Context(), id, s)
	if err != nil {
		return "", configurationFault(err, configurationWatch, s)
	}
	defer ch.Close()
	key := streamKey{id, rand.Text()}
	ctx, forget := h.streams.open(r.Context(), key)
	defer forget()
	stream := openEventStream(w)
	tell := func(event string, items map[string]item) error {
		body, err := json.Marshal(itemsEvent{key.id, items})
		if err != nil {
			return err
		}
		return stream.event(event, "", body)
	}
	if tell("subscription", nil) != nil {
		return resultOK, nil
	}
	err = h.follow(ctx, ch.Subscription, follower{
		id: id, readmit: h.readmit(r),
		tell: func(updates []watch.Update) error {
			if items := h.items(ctx, ch, updates); len(items) > 0 {
				return tell("configuration", items)
			}
			return nil
		},
		idle: func() error { return stream.comment("") },
	})
	if _, ok := errors.AsType[*fault](err); ok {
		err = configurationFault(err, configurationWatch, s)
	}
	return stream.end(err), nil
}

// unsubscribed is Dapr's answer to unsubscribing.
type unsubscribed struct {
	OK      bool   `json:"ok,omitempty"`
	Message string `json:"message,omitempty"`
}

func (h *httpSkin) endSubscription(w http.ResponseWriter, rt route, id scope.Identity) (string, error) {
	answer, status, result := unsubscribed{Message: h.unsubscribe(id, rt.name)}, http.StatusInternalServerError, resultBadRequest
	if answer.Message == "" {
		answer.OK, status, result = true, http.StatusOK, resultOK
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return "", err
	}
	writeBody(w, status, append(body, '\n'))
	return result, nil
}
