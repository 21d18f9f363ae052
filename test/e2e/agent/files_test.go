package agent_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestFiles reads a Kubernetes Secret in pods of every kind of reader.
func TestFiles(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "files")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"user": "shop", "password": "it's $ecret"}))

	t.Run("a file per field", func(t *testing.T) {
		p := pod{namespace: ns, name: "plain", serviceAccount: "app", attributes: map[string]string{"store": "kubernetes", "secrets": "db"}}
		p.start(t)
		p.wantFile(t, "db/user", "shop")
		p.wantFile(t, "db/password", "it's $ecret")
		if got := p.exec(t, "sh", "-c", "touch /secrets/x 2>&1; true"); !strings.Contains(got, "Read-only") {
			t.Errorf("writing to the volume: %q", got)
		}
	})
	t.Run("not root, with fsGroup", func(t *testing.T) {
		p := pod{namespace: ns, name: "group", serviceAccount: "app", security: "runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, runAsNonRoot: true",
			attributes: map[string]string{"store": "kubernetes", "secrets": "db"}}
		p.start(t)
		p.wantFile(t, "db/password", "it's $ecret")
		if got := p.exec(t, "stat", "-L", "-c", "%a %u:%g", "/secrets/db/password"); got != "440 0:2000\n" {
			t.Errorf("mode and owner are %q", got)
		}
	})
	t.Run("not root, with a uid and a mode", func(t *testing.T) {
		p := pod{namespace: ns, name: "owner", serviceAccount: "app", security: "runAsUser: 1000, runAsGroup: 1000",
			attributes: map[string]string{"store": "kubernetes", "secrets": "db", "uid": "1000", "mode": "0400"}}
		p.start(t)
		p.wantFile(t, "db/password", "it's $ecret")
	})
	t.Run("formats, and an optional secret that is missing", func(t *testing.T) {
		apply(t, mayRead(ns, "app", "nothing"))
		p := pod{namespace: ns, name: "formats", serviceAccount: "app", attributes: map[string]string{"store": "kubernetes", "secrets": `
- {name: db, path: db.json, format: json}
- {name: db, path: db.env, format: dotenv, fields: {user: DB_USER}}
- {name: db, path: password, format: raw, fields: [password]}
- {name: nothing, optional: true}
`}}
		p.start(t)
		p.wantFile(t, "db.json", `{"password":"it's $ecret","user":"shop"}`+"\n")
		p.wantFile(t, "db.env", "DB_USER='shop'\n")
		p.wantFile(t, "password", "it's $ecret")
		if got := p.exec(t, "ls", "/secrets"); got != "db.env\ndb.json\npassword\n" {
			t.Errorf("the volume has %q", got)
		}
	})
}

// TestStartTime compares pods with a Keywell volume with pods that have none, and with the kubelet's own Secret volume.
func TestStartTime(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "start-time")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"user": "shop"}))
	kinds := []struct {
		name string
		pod  pod
	}{
		{"no volume", pod{}},
		{"Secret volume of the kubelet", pod{source: "secret: {secretName: db}"}},
		{"Keywell volume", pod{attributes: map[string]string{"store": "kubernetes", "secrets": "db"}}},
	}
	const rounds = 5
	took := make([][]time.Duration, len(kinds))
	for i := range rounds * len(kinds) {
		kind := i % len(kinds)
		p := kinds[kind].pod
		p.namespace, p.name, p.serviceAccount = ns, fmt.Sprintf("pod-%d", i), "app"
		apply(t, p.manifest())
		took[kind] = append(took[kind], p.waitReady(t))
		p.delete(t)
	}
	for i, kind := range kinds {
		slices.Sort(took[i])
		measured(t, "pod start, "+kind.name+" (median and worst of 5)", "%s, %s", seconds(took[i][rounds/2]), seconds(took[i][rounds-1]))
	}
	m := agentMetrics(t)
	if n := sum(m, "keywell_volume_publish_seconds_count"); n > 0 {
		measured(t, "NodePublishVolume, mean", "%.1f ms", 1000*sum(m, "keywell_volume_publish_seconds_sum")/n)
	}
}

// TestRotation changes a Secret and waits for the file in the running pod.
func TestRotation(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "rotation")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": "v0"}))
	p := pod{namespace: ns, name: "app", serviceAccount: "app", attributes: map[string]string{"store": "kubernetes", "secrets": "db"}}
	p.start(t)
	file := p.directory(t) + "/db/password"
	var took []time.Duration
	for i := range 5 {
		want := fmt.Sprintf("v%d", i+1)
		setField(t, ns, "db", "password", want)
		took = append(took, waitFile(t, 30*time.Second, file, want))
	}
	slices.Sort(took)
	measured(t, "rotation: Secret changed to file changed (median and worst of 5)", "%s, %s", seconds(took[2]), seconds(took[4]))
	if took[4] > 2*time.Second {
		t.Errorf("the slowest rotation took %s", took[4])
	}
	p.wantFile(t, "db/password", "v5")
}

// TestDenied shows why a pod does not start, in one line, and starts it by giving it the right.
func TestDenied(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "denied")
	apply(t, reader(ns, "app")+secretOf(ns, "db", map[string]string{"password": "canary-7f3a"}))
	p := pod{namespace: ns, name: "app", serviceAccount: "app", attributes: map[string]string{"store": "kubernetes", "secrets": "db"}}
	apply(t, p.manifest())
	wantWhy(t, failedMount(t, p), "db", "kubernetes", "get", ns)
	if get[podObject](t, p.path()).ready() {
		t.Error("the pod is ready")
	}
	apply(t, mayRead(ns, "app", "db"))
	measured(t, "pod pending for want of a Role, from Role to ready", "%s", seconds(p.waitReady(t)))
	p.wantFile(t, "db/password", "canary-7f3a")
}

// TestSecretGone deletes a Secret under a running pod: the file stays, the pod's owner is told once and not at every
// attempt, the volume counts as abnormal, and all is well when the Secret is back.
func TestSecretGone(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "gone")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": "before"}))
	p := appPod(ns, "app")
	p.attributes["refreshInterval"] = "1s"
	p.start(t)
	file := p.directory(t) + "/db/password"

	kubectl(t, "delete", "secret", "db", "--namespace", ns)
	abnormal := func(want float64) func() error {
		return func() error {
			if got := sum(agentMetrics(t), "keywell_volume_abnormal"); got != want {
				return fmt.Errorf("%v volumes are abnormal, want %v", got, want)
			}
			return nil
		}
	}
	eventually(t, patience, abnormal(1))
	failures := func() float64 { return sum(agentMetrics(t), "keywell_volume_rotations_total", `result="failed"`) }
	attempts := failures() + 4
	eventually(t, patience, func() error {
		if got := failures(); got < attempts {
			return fmt.Errorf("%v rotations failed, want %v", got, attempts)
		}
		return nil
	})
	waitFile(t, 0, file, "before")
	events := strings.Fields(kubectl(t, "get", "events", "--namespace", ns, "-o", `jsonpath={range .items[?(@.source.component=="keywell")]}{.reason}{"\n"}{end}`))
	if diff := cmp.Diff([]string{"SecretNotFound"}, events); diff != "" {
		t.Errorf("what the pod's owner is told after several attempts (-want +got):\n%s", diff)
	}

	apply(t, secretOf(ns, "db", map[string]string{"password": "after"}))
	waitFile(t, patience, file, "after")
	eventually(t, patience, abnormal(0))
}

// failedMount waits until kubectl describe says why the pod has no volume, and returns that line.
func failedMount(t *testing.T, p pod) string {
	t.Helper()
	var why string
	eventually(t, patience, func() error {
		description, err := node.Kubectl(t.Context(), "describe", "pod", p.name, "--namespace", p.namespace)
		if err != nil {
			return err
		}
		for line := range strings.Lines(description) {
			if strings.Contains(line, "FailedMount") && strings.Contains(line, "rpc error") {
				why = strings.TrimSpace(line)
				return nil
			}
		}
		return errors.New("kubectl describe shows no FailedMount")
	})
	return why
}
