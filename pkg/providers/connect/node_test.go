package connect_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
)

func TestNode(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/latest/role" && r.Method == http.MethodPut && r.Header.Get("Token") == "t":
			_, _ = w.Write([]byte(" reader\n"))
		case r.URL.Path == "/latest/hang":
			<-r.Context().Done()
		case r.URL.Path == "/latest/none":
			http.NotFound(w, r)
		default:
			http.Error(w, "c4n4ry", http.StatusForbidden)
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // not asked
	n := connect.NewNode(nil, server.URL+"/latest/")
	got, err := n.Ask(t.Context(), http.MethodPut, "role", http.Header{"Token": {"t"}})
	if got != "reader" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := n.Token(t.Context(), "none", "Ttl"); got != "" || err != nil {
		t.Errorf("a service without tokens: %q, %v", got, err)
	}
	if _, err := connect.NewNode(nil, "http://127.0.0.1:1/").Token(t.Context(), "token", "Ttl"); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("a token of nobody: %v", err)
	}
	for path, kind := range map[string]providers.Kind{"none": providers.Denied, "role": providers.Unavailable, "hang": providers.Unavailable} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if path == "hang" {
			ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
		}
		_, err := n.Ask(ctx, http.MethodGet, path, nil)
		cancel()
		if providers.KindOf(err) != kind || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := connect.NewNode(nil, "http://127.0.0.1:1/").Ask(t.Context(), http.MethodGet, "role", nil); providers.KindOf(err) != providers.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
}
