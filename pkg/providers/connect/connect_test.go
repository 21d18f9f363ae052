package connect_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/keywell/keywell/pkg/providers/connect"
)

func TestClient(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	t.Cleanup(elsewhere.Close)
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	resp, err := connect.Client(nil).Get(server.URL)
	if err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("%v, %v", resp, err)
	}
	none := errors.New("no connection")
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, none }
	if resp, err := connect.Client(dial).Get(server.URL); !errors.Is(err, none) {
		t.Errorf("not by the dialer: %v, %v", resp, err)
	}
}
