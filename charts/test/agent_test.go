package chart_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// full has something of everything that the agent reads.
const full = `
stores:
- apiVersion: dapr.io/v1alpha1
  kind: Component
  metadata: {name: settings, namespace: shop}
  spec:
    type: secretstores.local.file
    version: v1
    metadata:
    - {name: secretsFile, value: /etc/keywell/credentials/settings/secrets.json}
    - {name: multiValued, value: true}
    - {name: refreshInterval, value: 30s}
- apiVersion: dapr.io/v1alpha1
  kind: Component
  metadata: {name: environment}
  spec:
    type: secretstores.local.env
    version: v1
    metadata:
    - {name: prefix, envRef: PREFIX}
  scopes: [web]
scopes:
- {storeName: settings, defaultAccess: deny, allowedSecrets: [database]}
policies:
- apiVersion: keywell.dev/v1alpha1
  kind: AccessPolicy
  metadata: {name: web}
  spec:
    rules:
    - {subjects: [{namespace: shop, serviceAccount: web}, {appID: "web-*"}], stores: [environment], allow: ["*"], deny: ["ADMIN_*"]}
- apiVersion: keywell.dev/v1alpha1
  kind: AccessPolicy
  metadata: {name: more}
  spec:
    rules:
    - {subjects: [{}], stores: ["*"], deny: [root], namespaces: [other]}
credentials:
  PREFIX: {secret: prefix, key: value}
credentialFiles: [settings]
`

// buildAgent builds the agent of this tree.
func buildAgent(t *testing.T) string {
	t.Helper()
	agent := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", agent, "./cmd/agent")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return agent
}

// TestAgent gives the agent what the chart makes: its flags, and its manifests as the ConfigMap's volumes lay them out.
func TestAgent(t *testing.T) {
	agent := buildAgent(t)
	usage, _ := exec.Command(agent, "run", "-h").CombinedOutput()

	for name, test := range map[string]struct{ values, want string }{
		"defaults": {"", "0 stores, 1 configurations, 0 access policies, 0 findings"},
		"full":     {full, "2 stores, 1 configurations, 2 access policies, 0 findings"},
	} {
		t.Run(name, func(t *testing.T) {
			o := decode(t, mustRender(t, test.values, newest))
			for _, arg := range o.agent().Args[1:] {
				flag, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
				if !strings.Contains(string(usage), "\n  -"+flag+" ") && !strings.Contains(string(usage), "\n  -"+flag+"\n") {
					t.Errorf("the agent has no flag %s", arg)
				}
			}
			dir := t.TempDir()
			for _, v := range o.daemonSet.Spec.Template.Spec.Volumes {
				if v.ConfigMap == nil {
					continue
				}
				if err := os.Mkdir(filepath.Join(dir, v.Name), 0o700); err != nil {
					t.Fatal(err)
				}
				for _, item := range v.ConfigMap.Items {
					content, ok := o.config.Data[item.Key]
					if !ok || v.ConfigMap.Name != o.config.Name {
						t.Fatalf("volume %s wants %s of %s", v.Name, item.Key, v.ConfigMap.Name)
					}
					if err := os.WriteFile(filepath.Join(dir, v.Name, item.Path), []byte(content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			out, err := exec.Command(agent, "check",
				"--resources-path", filepath.Join(dir, "resources"), "--config", filepath.Join(dir, "config/scopes.yaml")).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != test.want {
				t.Errorf("agent check: %v\n%s\nwant %s", err, out, test.want)
			}
		})
	}
}
