package agent_test

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// TestNothingTellsASecret has a pod get a value by each way there is, at the most talkative log level, and looks for the
// value in all that the agent, the kubelet and the container runtime say.
func TestNothingTellsASecret(t *testing.T) {
	const canary, changed = "canary-5d1e7c", "canary-9b20fa"
	install(t, defaults().with("log", values{"level": "debug"}).with("localhost", values{"enabled": true}))
	ns := newNamespace(t, "canary")
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": canary}))
	p := appPod(ns, "app")
	p.start(t)
	setField(t, ns, "db", "password", changed)
	waitFile(t, patience, p.directory(t)+"/db/password", changed)
	caller := caller{namespace: ns, name: "caller", attributes: map[string]string{"api": "socket, localhost"}}.start(t)
	const path, answer = "/v1.0/secrets/kubernetes/db", `200 {"password":"` + changed + `"}` + "\n"
	eventually(t, patience, func() error { return caller.isAnswered(t, path) })
	caller.wants(t, answer, "get", localhost+path)
	caller.wants(t, answer, "socket", path)
	broken := appPod(ns, "broken") // a value that the format can't hold
	setField(t, ns, "db", "password", changed+"\r")
	broken.attributes = map[string]string{"store": "kubernetes", "secrets": "db", "format": "dotenv"}
	apply(t, broken.manifest())
	wantWhy(t, failedMount(t, broken), "db")

	metrics, err := kubeAPI.fetch(t.Context(), http.MethodGet, "http://"+cluster.NodeIP+":3502/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{
		"the agent's log":     kubectl(t, "logs", "daemonset/keywell", "--namespace", keywellNamespace),
		"metrics":             string(metrics),
		"events":              kubectl(t, "get", "events", "--namespace", ns, "-o", "yaml"),
		"the agent's records": onNode(t, "cat /run/keywell/* 2>/dev/null; grep -rs canary- /run/keywell; true"),
	}
	err = filepath.WalkDir(node.Logs(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		said[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said["the agent's log"], `"namespace":"canary"`) {
		t.Error("the agent's log says nothing of the test")
	}
	for where, text := range said {
		for line := range strings.Lines(text) {
			if strings.Contains(line, canary) || strings.Contains(line, changed) {
				t.Errorf("%s: %s", where, line)
			}
		}
	}
}
