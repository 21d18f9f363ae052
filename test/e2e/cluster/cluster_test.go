package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/test/e2e/cluster"
)

func TestMain(m *testing.M) {
	os.Exit(cluster.Main(func() int {
		if name := os.Getenv(ownerVariable); name != "" {
			return own(name)
		}
		return m.Run()
	}))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a cluster needs root")
	}
}

// start starts a cluster that ends with the test.
func start(t *testing.T, name string) *cluster.Cluster {
	t.Helper()
	needRoot(t)
	began := time.Now()
	c, err := cluster.Start(t.Context(), cluster.Options{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: ready after %.1f s", name, time.Since(began).Seconds())
	t.Cleanup(func() {
		began := time.Now()
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		t.Logf("%s: gone after %.1f s", name, time.Since(began).Seconds())
	})
	return c
}

func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, c *cluster.Cluster, manifest string) {
	t.Helper()
	if err := c.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

func waitReady(t *testing.T, c *cluster.Cluster, pod string) {
	t.Helper()
	began := time.Now()
	if err := c.WaitPodReady(t.Context(), "default", pod, time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Logf("pod %s: ready %.1f s after it was asked for", pod, time.Since(began).Seconds())
}

const webPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: keywell.test/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'mkdir /www && echo hello > /www/index.html && echo started && exec httpd -f -p 8080 -h /www']
    securityContext: {seccompProfile: {type: RuntimeDefault}}
    readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
    volumeMounts: [{name: token, mountPath: /token}]
  volumes:
  - name: token
    projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// TestPod takes one pod through all that the other suites build on.
func TestPod(t *testing.T) {
	c := start(t, "pod")
	apply(t, c, webPod)
	waitReady(t, c, "web")

	t.Run("exec", func(t *testing.T) {
		if got := kubectl(t, c, "exec", "web", "--", "cat", "/www/index.html"); got != "hello\n" {
			t.Errorf("the pod's file holds %q", got)
		}
	})
	t.Run("logs", func(t *testing.T) {
		if got := kubectl(t, c, "logs", "web"); got != "started\n" {
			t.Errorf("the pod said %q", got)
		}
	})
	t.Run("projected token", func(t *testing.T) {
		token := kubectl(t, c, "exec", "web", "--", "cat", "/token/token")
		review := c.Command(t.Context(), "kubectl", "create", "-o", "jsonpath={.status.user.username}", "-f", "-")
		review.Stdin = strings.NewReader(fmt.Sprintf(
			`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": %q, "audiences": ["vault"]}}`, token))
		got, err := review.CombinedOutput()
		if err != nil || string(got) != "system:serviceaccount:default:default" {
			t.Errorf("the token's review says %q, %v", got, err)
		}
	})
	t.Run("service", func(t *testing.T) {
		ip := kubectl(t, c, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		// kube-proxy programs the address a moment after the pod is ready.
		fetch := "until wget -q -O - http://" + ip + "/; do sleep 0.1; done"
		if got := kubectl(t, c, "exec", "web", "--", "timeout", "20", "sh", "-c", fetch); got != "hello\n" {
			t.Errorf("the service answers %q", got)
		}
	})
	t.Run("from the test into the cluster", func(t *testing.T) {
		ip := kubectl(t, c, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
		client := &http.Client{Transport: &http.Transport{DialContext: c.DialContext, DisableKeepAlives: true}}
		response, err := client.Get("http://" + ip + ":8080/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("the pod answers %s", response.Status)
		}
	})
	t.Run("from the cluster to the test", func(t *testing.T) {
		var listener net.Listener
		err := c.InNetwork(func() (err error) {
			listener, err = net.Listen("tcp", cluster.NodeIP+":0")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		store := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "from a store") })}
		go store.Serve(listener)
		defer store.Close()
		if got := kubectl(t, c, "exec", "web", "--", "wget", "-q", "-O", "-", "http://"+listener.Addr().String()); got != "from a store" {
			t.Errorf("the pod reads %q", got)
		}
	})
	t.Run("on the node", func(t *testing.T) {
		out, err := c.NodeCommand(t.Context(), "sh", "-c", "hostname; cat /proc/1/comm; ls /var/lib/kubelet/pods | wc -l").Output()
		if f := strings.Fields(string(out)); err != nil || len(f) != 3 || f[0] != cluster.NodeName || f[2] != "1" {
			t.Errorf("the node says %q, %v", out, err)
		}
	})
	t.Run("helm", func(t *testing.T) {
		if out, err := c.Command(t.Context(), "helm", "list", "--short").CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("helm says %q, %v", out, err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		kubectl(t, c, "delete", "pod", "web", "--timeout", "30s")
		if got := kubectl(t, c, "get", "pods", "-o", "name"); got != "" {
			t.Errorf("there is still %q", got)
		}
	})
}

// mountingPods are a privileged one that mounts where the kubelet keeps its volumes, as a CSI driver does, and one that
// looks there.
const mountingPods = `
apiVersion: v1
kind: Pod
metadata: {name: mounter}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: mounter
    image: keywell.test/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'mkdir /kubelet/probe && mount -t tmpfs probe-tmpfs /kubelet/probe && touch /kubelet/probe/file && exec sleep 600']
    securityContext: {privileged: true}
    readinessProbe: {exec: {command: [test, -e, /kubelet/probe/file]}, periodSeconds: 1}
    volumeMounts: [{name: kubelet, mountPath: /kubelet, mountPropagation: Bidirectional}]
  volumes: [{name: kubelet, hostPath: {path: /var/lib/kubelet}}]
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: reader
    image: keywell.test/busybox:1
    imagePullPolicy: Never
    command: [sleep, '600']
    readinessProbe: {exec: {command: [test, -e, /kubelet/probe/file]}, periodSeconds: 1}
    volumeMounts: [{name: kubelet, mountPath: /kubelet, mountPropagation: HostToContainer}]
  volumes: [{name: kubelet, hostPath: {path: /var/lib/kubelet}}]
`

// TestMountPropagation shows that a mount made in a pod reaches the node once, and other pods.
func TestMountPropagation(t *testing.T) {
	c := start(t, "mounts")
	apply(t, c, mountingPods)
	waitReady(t, c, "mounter")
	waitReady(t, c, "reader")
	mounts, err := c.NodeCommand(t.Context(), "grep", "-c", " probe-tmpfs ", "/proc/1/mountinfo").Output()
	if strings.TrimSpace(string(mounts)) != "1" {
		t.Errorf("the node has the mount %s times, %v", mounts, err)
	}
}

// TestRestart kills the kubelet and expects the node to bring it back.
func TestRestart(t *testing.T) {
	c := start(t, "restart")
	before, err := c.NodeCommand(t.Context(), "pidof", "kubelet").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.NodeCommand(t.Context(), "kill", "-9", strings.TrimSpace(string(before))).Run(); err != nil {
		t.Fatal(err)
	}
	apply(t, c, webPod)
	waitReady(t, c, "web")
	after, err := c.NodeCommand(t.Context(), "pidof", "kubelet").Output()
	if err != nil || string(after) == string(before) {
		t.Errorf("the kubelet was process %s and is %s, %v", before, after, err)
	}
}

// TestSideBySide runs two clusters at once and shows that neither sees the other, though they use the same addresses.
func TestSideBySide(t *testing.T) {
	clusters := map[string]*cluster.Cluster{}
	for _, name := range []string{"left", "right"} {
		clusters[name] = start(t, name)
	}
	for name, c := range clusters {
		apply(t, c, webPod)
		kubectl(t, c, "create", "namespace", name)
	}
	for name, c := range clusters {
		waitReady(t, c, "web")
		got := strings.Fields(kubectl(t, c, "get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}"))
		want := []string{"default", "kube-node-lease", "kube-public", "kube-system", name}
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("namespaces of %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	needRoot(t)
	t.Run("a name that is in use", func(t *testing.T) {
		start(t, "taken")
		if _, err := cluster.Start(t.Context(), cluster.Options{Name: "taken"}); !errors.Is(err, cluster.ErrRunning) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a name that is no file's", func(t *testing.T) {
		if _, err := cluster.Start(t.Context(), cluster.Options{Name: "../up"}); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("a repository without binaries", func(t *testing.T) {
		if _, err := cluster.Start(t.Context(), cluster.Options{Root: t.TempDir()}); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("to go on after its context's end", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := cluster.Start(ctx, cluster.Options{Name: "hurried"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if found := find(t, "hurried", nil); len(found) > 0 {
			t.Errorf("left of the cluster: %v", found)
		}
	})
}

func TestOpenFindsNothing(t *testing.T) {
	needRoot(t)
	if _, err := cluster.Open(cluster.Options{Name: "never-started"}); !errors.Is(err, cluster.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

func TestFindRoot(t *testing.T) {
	root, err := cluster.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if root, err := cluster.FindRoot(); err == nil {
		t.Errorf("found %s from outside", root)
	}
}
