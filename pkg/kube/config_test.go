package kube_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywell/keywell/pkg/kube"
)

func TestConfig(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	path := filepath.Join(t.TempDir(), "kubeconfig")
	const content = `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],
clusters: [{name: k, cluster: {server: "https://10.0.0.1:6443"}}], users: [{name: u, user: {token: t}}]}`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := kube.Config(path, "keywell/test")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "https://10.0.0.1:6443" || cfg.BearerToken != "t" || cfg.UserAgent != "keywell/test" || cfg.Dial == nil || cfg.Timeout != 0 {
		t.Errorf("%+v", cfg) // a Timeout would end watches
	}
	for file, want := range map[string]string{"": "not running in a pod", path + ".none": "no such file"} {
		if _, err := kube.Config(file, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("file %q: error %v, want %q", file, err, want)
		}
	}
}
