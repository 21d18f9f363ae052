package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/secret"
)

// onNode returns an agent as it runs on a node of Kubernetes, whose API server can't be reached. Nothing is started.
func onNode(t *testing.T) *agent {
	t.Helper()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte("clusters: [{name: c, cluster: {server: 'http://localhost:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &runFlags{nodeID: "test", stateDir: dir, csiSocket: filepath.Join(dir, "csi.sock"), roots: list{dir}, maxVolume: 1, maxNode: 1}
	r.kubernetes = kubernetesFlags{enabled: true, objects: true, kubeconfig: kubeconfig, node: "test", registry: dir, runtime: filepath.Join(dir, "cri.sock")}
	a, err := newAgent(r, secret.Value{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestProbes: the agent lives while the kubelet gets answers, and is not ready while pods would have to wait for it.
func TestProbes(t *testing.T) {
	a := onNode(t)
	probe := func(handler http.HandlerFunc) (int, string) {
		w := httptest.NewRecorder()
		handler(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	if code, body := probe(a.readyz); code != http.StatusServiceUnavailable || body != "waiting for stores, pods, objects of the cluster, registration with the kubelet" {
		t.Errorf("readyz of an agent that has not begun: %d %q", code, body)
	}
	if code, body := probe(a.healthz); code != http.StatusServiceUnavailable || body != "the CSI socket does not answer" {
		t.Errorf("healthz without a CSI socket: %d %q", code, body)
	}

	socket, err := csi.Listen(a.flags.csiSocket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.csi.Serve(ctx, socket) }()
	if code, body := probe(a.healthz); code != http.StatusOK {
		t.Errorf("healthz while the CSI socket is served: %d %q", code, body)
	}
	if code, _ := probe(a.readyz); code != http.StatusServiceUnavailable {
		t.Errorf("readyz while the API server is away: %d", code)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if code, _ := probe(a.healthz); code != http.StatusServiceUnavailable {
		t.Errorf("healthz after the CSI socket's end: %d", code)
	}
}
