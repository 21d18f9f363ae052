package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// patience is how long a test waits for what takes a second or two on a quiet machine.
const patience = 90 * time.Second

// newNamespace makes a namespace that ends with the test.
func newNamespace(t *testing.T, name string) string {
	t.Helper()
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("events of %s:\n%s", name, cleanupKubectl("get", "events", "--namespace", name))
			t.Logf("the agent:\n%s", cleanupKubectl("logs", "daemonset/keywell", "--namespace", keywellNamespace, "--tail", "15"))
		}
		cleanupKubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
	})
	return name
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := node.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	if err := node.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

// reader is a service account of a namespace.
func reader(namespace, name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: %s}\n", name, namespace)
}

// mayRead gives the service account the right to read one Secret, and to be told of its changes.
func mayRead(namespace, serviceAccount, secret string) string {
	return fmt.Sprintf(`---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: read-%[3]s, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [%[3]s], verbs: [get, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read-%[3]s-%[2]s, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: read-%[3]s}
subjects: [{kind: ServiceAccount, name: %[2]s, namespace: %[1]s}]
`, namespace, serviceAccount, secret)
}

// secretOf is a Secret with these fields.
func secretOf(namespace, name string, fields map[string]string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData: %s\n", name, namespace, toJSON(fields))
}

// toJSON writes what YAML can hold too.
func toJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps of strings come here
	}
	return string(data)
}

// pod is a pod that waits. It has a volume at /secrets if it has attributes or a source for one.
type pod struct {
	namespace, name, serviceAccount string
	attributes                      map[string]string // of a Keywell volume
	source                          string            // of another volume
	security                        string            // its securityContext; "" is none
}

// spec is the pod's specification, as a flow of YAML.
func (p pod) spec() string {
	source, volume, mount := p.source, "", ""
	if p.attributes != nil {
		source = "csi: {driver: csi.keywell.dev, readOnly: true, volumeAttributes: " + toJSON(p.attributes) + "}"
	}
	if source != "" {
		volume, mount = "{name: secrets, "+source+"}", "{name: secrets, mountPath: /secrets, readOnly: true}"
	}
	return fmt.Sprintf(`{serviceAccountName: %s, automountServiceAccountToken: false, enableServiceLinks: false, dnsPolicy: Default,
    terminationGracePeriodSeconds: 0, securityContext: {%s}, volumes: [%s],
    containers: [{name: main, image: "%s", imagePullPolicy: Never, command: [sleep, "3600"], volumeMounts: [%s]}]}`,
		p.serviceAccount, p.security, volume, cluster.BusyboxImage, mount)
}

func (p pod) manifest() string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", p.name, p.namespace, p.spec())
}

// start makes the pod and waits until it is ready.
func (p pod) start(t *testing.T) {
	t.Helper()
	apply(t, p.manifest())
	p.waitReady(t)
}

func (p pod) path() string { return "/api/v1/namespaces/" + p.namespace + "/pods/" + p.name }

type podObject struct {
	Metadata struct{ UID string }
	Status   struct {
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []struct{ RestartCount int }
	}
}

func (p podObject) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// waitReady returns how long it took.
func (p pod) waitReady(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	err := poll(t.Context(), patience, func() error {
		if !get[podObject](t, p.path()).ready() {
			return errors.New("the pod is not ready")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, kubectl(t, "describe", "pod", p.name, "--namespace", p.namespace))
	}
	return time.Since(began)
}

// delete returns when the pod is gone, and how long that took.
func (p pod) delete(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	p.deleteLater(t)
	p.waitGone(t)
	return time.Since(began)
}

func (p pod) deleteLater(t *testing.T) {
	t.Helper()
	if _, err := kubeAPI.do(t.Context(), http.MethodDelete, p.path(), ""); err != nil {
		t.Fatal(err)
	}
}

func (p pod) waitGone(t *testing.T) {
	t.Helper()
	eventually(t, patience, func() error {
		if _, err := kubeAPI.do(t.Context(), http.MethodGet, p.path(), ""); err == nil {
			return fmt.Errorf("pod %s is still there", p.name)
		} else if !strings.Contains(err.Error(), "404") {
			return err
		}
		return nil
	})
}

// exec runs a command in the pod and returns what it printed.
func (p pod) exec(t *testing.T, command ...string) string {
	t.Helper()
	return kubectl(t, append([]string{"exec", "--namespace", p.namespace, p.name, "--"}, command...)...)
}

// wantFile fails the test unless the pod reads that from the file.
func (p pod) wantFile(t *testing.T, file, want string) {
	t.Helper()
	if diff := cmp.Diff(want, p.exec(t, "cat", "/secrets/"+file)); diff != "" {
		t.Errorf("%s in pod %s (-want +got):\n%s", file, p.name, diff)
	}
}

// directory is the pod's volume as seen from here, which is quicker to read than from in the pod.
func (p pod) directory(t *testing.T) string {
	t.Helper()
	uid := get[podObject](t, p.path()).Metadata.UID
	return filepath.Join(fmt.Sprintf("/proc/%d/root", node.PID()), "var/lib/kubelet/pods", uid, "volumes/kubernetes.io~csi/secrets/mount")
}

// waitFile waits until a file holds that and returns how long it took.
func waitFile(t *testing.T, timeout time.Duration, path, want string) time.Duration {
	t.Helper()
	return eventually(t, timeout, func() error {
		got, err := os.ReadFile(path)
		if err == nil && string(got) != want {
			err = fmt.Errorf("%s holds %q, want %q", path, got, want)
		}
		return err
	})
}

// setField changes a field of a Secret.
func setField(t *testing.T, namespace, secret, field, value string) {
	t.Helper()
	patch(t, "/api/v1/namespaces/"+namespace+"/secrets/"+secret, `{"stringData": `+toJSON(map[string]string{field: value})+`}`)
}

func cleanupKubectl(args ...string) string {
	cmd := node.Command(context.Background(), "kubectl", args...)
	out, _ := cmd.CombinedOutput()
	return string(out)
}
