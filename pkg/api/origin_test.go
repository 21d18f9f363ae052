package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	componentsv1pb "github.com/dapr/dapr/pkg/proto/components/v1"
	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/origin"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// attestOrigin knows callers by the socket that they come in by, and no others.
func attestOrigin(_ context.Context, e api.Evidence) (scope.Identity, error) {
	if from, ok := e.Peer.(*origin.Addr); ok {
		return from.Identity, nil
	}
	return scope.Identity{}, errors.New("no origin")
}

// TestOrigin asserts that all protocols tell pods apart by their sockets, and that no token gets around it.
func TestOrigin(t *testing.T) {
	f := newFixture(t)
	f.rules.Closed = true
	f.rules.Policies = []scope.AccessRule{{
		Subjects: []scope.Subject{{Namespace: "shop"}}, Stores: []string{"s"}, Allow: []string{"*"},
	}}
	memory := providertest.NewMemory()
	memory.Put("a", map[string]string{"a": "1"})
	f.withStore("s", memory)
	f.options.Attest = attestOrigin

	dir := t.TempDir()
	socket := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	onHTTP, onGRPC, onPlugin := origin.New(), origin.New(), origin.New()
	for _, namespace := range []string{"shop", "other"} {
		from := origin.Addr{Way: origin.Socket, Identity: scope.Identity{Namespace: namespace, Pod: "web-0"}}
		onHTTP.Add(from, socket(namespace+".http"))
		onGRPC.Add(from, socket(namespace+".grpc"))
		onPlugin.Add(from, socket(namespace+".plugin"))
	}
	listeners, err := api.Listen(t.Context(), api.Addresses{HTTP: []string{"127.0.0.1:0"}, GRPC: []string{"127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	listeners.HTTP, listeners.GRPC, listeners.Plugin = append(listeners.HTTP, onHTTP), append(listeners.GRPC, onGRPC), append(listeners.Plugin, onPlugin)
	r := f.serve(listeners)

	for namespace, want := range map[string]string{"shop": `200 {"a":"1"}`, "other": "403 "} {
		client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", filepath.Join(dir, namespace+".http"))
		}}}
		defer client.CloseIdleConnections()
		if got := get(t, &client, "http://localhost/v1.0/secrets/s/a"); got[:len(want)] != want {
			t.Errorf("HTTP from %s: %s", namespace, got)
		}
	}
	if got := get(t, http.DefaultClient, "http://"+r.http+"/v1.0/secrets/s/a"); got != "401 invalid api token\n" {
		t.Errorf("HTTP from the node: %s", got)
	}

	for namespace, want := range map[string]codes.Code{"shop": codes.OK, "other": codes.PermissionDenied} {
		conn, err := grpc.NewClient("unix:"+filepath.Join(dir, namespace+".grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = runtimev1pb.NewDaprClient(conn).GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "s", Key: "a"})
		if status.Code(err) != want {
			t.Errorf("gRPC from %s: %v", namespace, err)
		}
		daprd, err := grpc.NewClient("unix:"+filepath.Join(dir, namespace+".plugin"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer daprd.Close()
		_, err = componentsv1pb.NewSecretStoreClient(daprd).Get(component(t.Context(), "s"), &componentsv1pb.GetSecretRequest{Key: "a"})
		if status.Code(err) != want {
			t.Errorf("as a plugin, from %s: %v", namespace, err)
		}
	}
	client, _ := r.client(t)
	if _, err := client.GetSecret(t.Context(), &runtimev1pb.GetSecretRequest{StoreName: "s", Key: "a"}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC from the node: %v", err)
	}
}

// get returns the status and the body of an answer.
func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(response.StatusCode, " ", string(body))
}

// callerTokens are the tokens of one caller.
type callerTokens struct {
	providers.TokenSource
	of scope.Identity
}

// TestTokens asserts that every read of a caller carries its own tokens.
func TestTokens(t *testing.T) {
	f := newFixture(t).with(api.Store{Name: "s", Open: true}, nil)
	var got []providers.TokenSource
	f.options.Resolver = fakeResolver{
		resolve: func(_ context.Context, req resolve.Request) (resolve.Result, error) {
			got = append(got, req.Tokens)
			return resolve.Result{}, nil
		},
		list: func(_ context.Context, req resolve.Request) (resolve.Listing, error) {
			got = append(got, req.Tokens)
			return resolve.Listing{Names: []string{"a"}}, nil
		},
	}
	for _, tokens := range []func(scope.Identity) providers.TokenSource{
		nil, func(id scope.Identity) providers.TokenSource { return callerTokens{of: id} },
	} {
		got = nil
		f.options.Tokens = tokens
		f.options.Registerer = nil
		h := api.New(f.options).Handler()
		do(h, http.MethodGet, "/v1.0/secrets/s/a")
		do(h, http.MethodGet, "/v1.0/secrets/s/bulk")
		if len(got) != 3 {
			t.Fatalf("%d reads", len(got))
		}
		for i, source := range got {
			if tokens == nil {
				if source != nil {
					t.Errorf("read %d brings tokens from nowhere", i)
				}
			} else if source != (callerTokens{of: scope.Identity{AppID: appID}}) {
				t.Errorf("read %d brings %v", i, source)
			}
		}
	}
}
