package kube_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/kube/kubetest"
	"github.com/keywell/keywell/pkg/scope"
)

// node is the node that the tests' agent runs on.
const node = "node-a"

// fixture is an API server, and the agent's parts that talk to it, in a bubble.
type fixture struct {
	*testing.T
	server   *kubetest.Server
	client   *kube.Client
	pods     *kube.Pods
	reviewer *kube.TokenReviewer
	registry *prometheus.Registry
	deleted  []kube.Pod
	changes  int // how often something was said to have changed
}

// run runs a test in a bubble, with Pods running from the start.
func run(t *testing.T, test func(*fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server, cfg := kubetest.NewServerInMemory(t)
		client, err := kube.NewClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f := &fixture{T: t, server: server, client: client, registry: prometheus.NewRegistry()}
		f.pods, err = kube.NewPods(kube.PodsOptions{
			Client: client, Node: node, Registerer: f.registry, Deleted: func(p kube.Pod) { f.deleted = append(f.deleted, p) },
			Changed: func() { f.changes++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		f.reviewer, err = kube.NewTokenReviewer(kube.ReviewerOptions{Client: client, Pods: f.pods, Registerer: f.registry})
		if err != nil {
			t.Fatal(err)
		}
		test(f)
	})
}

// start runs a part until the test ends.
func (f *fixture) start(part func(context.Context) error) {
	ctx, cancel := context.WithCancel(f.Context())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("a part ended: %v", err)
		}
	})
	synctest.Wait()
}

// putPod stores a pod of node, changed as said.
func (f *fixture) putPod(name string, change ...func(pod kubetest.Object)) {
	pod := kubetest.Object{
		"metadata": kubetest.Object{"uid": "uid-of-" + name, "annotations": kubetest.Object{"dapr.io/app-id": "app-" + name, "other": "x"}},
		"spec":     kubetest.Object{"nodeName": node, "serviceAccountName": "sa"},
		"status":   kubetest.Object{"phase": "Running"},
	}
	for _, c := range change {
		c(pod)
	}
	f.server.Put("pods", "shop", name, pod)
	synctest.Wait()
}

// identity is that of a pod that putPod stored.
func identity(name string) scope.Identity {
	return scope.Identity{Namespace: "shop", ServiceAccount: "sa", Pod: name, PodUID: "uid-of-" + name, AppID: "app-" + name}
}

// jwt returns a token that says to be bound to a pod and to expire at a time. Its signature is for the server to check.
func jwt(podUID string, expires time.Time) string {
	payload, err := json.Marshal(map[string]any{
		"exp":           expires.Unix(),
		"kubernetes.io": map[string]any{"pod": map[string]any{"uid": podUID}},
	})
	if err != nil {
		panic(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2lnbmF0dXJl"
}

// review returns what the API server says of a good token of a pod.
func review(name string) authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true,
		Audiences:     []string{kube.DefaultAudience},
		User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:shop:sa",
			Extra: map[string]authenticationv1.ExtraValue{
				"authentication.kubernetes.io/pod-name":  {name},
				"authentication.kubernetes.io/pod-uid":   {"uid-of-" + name},
				"authentication.kubernetes.io/node-name": {node},
			},
		},
	}
}
