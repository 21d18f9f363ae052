package api

import (
	"encoding/json"
	"net/http"

	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/protobuf/proto"

	"github.com/keywell/keywell/pkg/scope"
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

// refuseConfigurationUpdates answers as daprd does where it can't call its app: it would deliver updates by requests to
// the app's port, and the agent knows no such port of its callers.
func refuseConfigurationUpdates(rt route) error {
	f := newFault(noAppChannel, reasonNoAppChannel)
	f.store = rt.store
	f.hint = "watch a secret with GET " + pathSecrets + "{store}/{name}?watch, or subscribe over gRPC"
	return f
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
