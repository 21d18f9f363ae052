package chart_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	storagev1 "k8s.io/api/storage/v1"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
)

// TestCSIDriver: tokens travel as secrets from the version on that knows how.
func TestCSIDriver(t *testing.T) {
	yes, no, hour := true, false, int64(3600)
	none := storagev1.NoneFSGroupPolicy
	base := storagev1.CSIDriverSpec{
		AttachRequired: &no, PodInfoOnMount: &yes, RequiresRepublish: &yes, SELinuxMount: &yes, FSGroupPolicy: &none,
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral},
	}
	tests := []struct {
		name, version, values string
		want                  func(*storagev1.CSIDriverSpec)
	}{
		{"1.33", "v1.33.1", "", func(s *storagev1.CSIDriverSpec) {
			s.TokenRequests = []storagev1.TokenRequest{{Audience: "", ExpirationSeconds: &hour}}
		}},
		{"1.35 of a vendor", "v1.35.0-gke.100", "", func(s *storagev1.CSIDriverSpec) {
			s.TokenRequests = []storagev1.TokenRequest{{Audience: "", ExpirationSeconds: &hour}}
			s.ServiceAccountTokenInSecrets = &yes
		}},
		{"1.37", newest, "", func(s *storagev1.CSIDriverSpec) {
			s.TokenRequests = []storagev1.TokenRequest{{Audience: "", ExpirationSeconds: &hour}}
			s.ServiceAccountTokenInSecrets = &yes
		}},
		{"other audiences", newest, `tokenRequests: [{audience: ""}, {audience: vault}]`, func(s *storagev1.CSIDriverSpec) {
			s.TokenRequests = []storagev1.TokenRequest{{Audience: ""}, {Audience: "vault"}}
			s.ServiceAccountTokenInSecrets = &yes
		}},
		// The API server refuses serviceAccountTokenInSecrets without tokenRequests.
		{"no tokens", newest, "tokenRequests: []", func(*storagev1.CSIDriverSpec) {}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := base
			test.want(&want)
			got := decode(t, mustRender(t, test.values, test.version)).driver
			if diff := cmp.Diff(want, got.Spec); diff != "" || got.Name != "csi.keywell.dev" {
				t.Errorf("%s (-want +got):\n%s", got.Name, diff)
			}
		})
	}
}

func TestKinds(t *testing.T) {
	always := []string{"CSIDriver", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "ServiceAccount"}
	for name, more := range map[string][]string{
		"defaults":        {"CustomResourceDefinition"},
		"no objects":      {},
		"no CRD":          {},
		"service monitor": {"CustomResourceDefinition", "Service", "ServiceMonitor"},
		"monitoring":      {"CustomResourceDefinition", "ConfigMap of the dashboard", "PrometheusRule"},
	} {
		t.Run(name, func(t *testing.T) {
			want := slices.Sorted(slices.Values(slices.Concat(always, more)))
			if diff := cmp.Diff(want, decode(t, mustRender(t, valueSets[name], newest)).kinds); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
		})
	}
}

// TestArguments: what values change in the agent's command line.
func TestArguments(t *testing.T) {
	all := func(values string) []string { return decode(t, mustRender(t, values, newest)).agent().Args }
	defaults := all("")
	for name, test := range map[string]struct{ values, added, removed string }{
		"built-in store":        {"disableBuiltinKubernetesSecretStore: true", "--disable-builtin-kubernetes-secret-store", ""},
		"Dapr's name for it":    {"disableBuiltinK8sSecretStore: true", "--disable-builtin-kubernetes-secret-store", ""},
		"tokens":                {"requestTokens: {enabled: true}", "--request-tokens", ""},
		"annotations":           {"serviceAccountAnnotations: true", "--service-account-annotations", ""},
		"no objects":            {"objects: {enabled: false}", "", "--cluster-objects"},
		"trusted namespace":     {"objects: {componentNamespaces: [shop]}", "--component-namespace=shop", ""},
		"components":            {"plugins: {components: {enabled: true}}", "--components-sockets=/run/keywell-components", ""},
		"classes":               {"plugins: {secretProviderClasses: {enabled: true}}", "--provider-sockets=/var/run/secrets-store-csi-providers", ""},
		"no audit":              {"audit: {enabled: false}", "--audit-log=", "--audit-log=-"},
		"no metrics":            {"metrics: {enabled: false}", "--metrics-address=", "--metrics-address=[$(HOST_IP)]:3502"},
		"port":                  {"api: {httpPort: 3600}", "--http-address=[$(HOST_IP)]:3600", "--http-address=[$(HOST_IP)]:3500"},
		"limits in whole bytes": {"volumes: {maxNodeMiB: 65536}", "--max-node-bytes=68719476736", "--max-node-bytes=268435456"},
	} {
		t.Run(name, func(t *testing.T) {
			got := all(test.values)
			added := slices.DeleteFunc(slices.Clone(got), func(a string) bool { return slices.Contains(defaults, a) })
			removed := slices.DeleteFunc(slices.Clone(defaults), func(a string) bool { return slices.Contains(got, a) })
			if strings.Join(added, " ") != test.added || strings.Join(removed, " ") != test.removed {
				t.Errorf("added %q, removed %q", added, removed)
			}
		})
	}
	t.Run("no API", func(t *testing.T) {
		got := all("api: {enabled: false}")
		for _, a := range got {
			if strings.Contains(a, ":3500") || strings.Contains(a, ":50001") {
				t.Errorf("the API is served: %s", a)
			}
		}
		// The agent's own default is not "none", so it has to be said.
		if !slices.Contains(got, "--http-address=") || !slices.Contains(got, "--grpc-address=") {
			t.Errorf("the agent serves the API by its own default: %q", got)
		}
	})
}

const store = `
stores:
- apiVersion: dapr.io/v1alpha1
  kind: Component
  metadata: {name: vault}
  spec:
    type: secretstores.hashicorp.vault
    metadata:
    - `

// TestValuesRefused: wrong values are refused with a message that says where and what, and that quotes no credential.
func TestValuesRefused(t *testing.T) {
	const canary = "c4n4ry"
	const inline = "looks like a credential, and a ConfigMap is no place for one. Put it into a Secret, list that in credentials, and write envRef"
	tests := map[string]struct{ values, want string }{
		"unknown name":           {"store: []", "additional properties 'store' not allowed"},
		"unknown name, deep":     {"api: {port: 3500}", "at '/api': additional properties 'port' not allowed"},
		"wrong type":             {`api: {httpPort: "3500"}`, "at '/api/httpPort': got string, want integer"},
		"port for root only":     {"health: {port: 443}", "at '/health/port': minimum: got 443, want 1,024"},
		"log level":              {"log: {level: verbose}", "at '/log/level': value must be one of 'debug', 'info', 'warn', 'error'"},
		"relative kubelet root":  {"kubeletRoot: var/lib/kubelet", "at '/kubeletRoot'"},
		"kubelet root with a /":  {"kubeletRoot: /var/lib/kubelet/", "at '/kubeletRoot'"},
		"maxUnavailable 0":       {"maxUnavailable: 0", "at '/maxUnavailable'"},
		"short-lived tokens":     {"tokenRequests: [{audience: vault, expirationSeconds: 60}]", "at '/tokenRequests/0/expirationSeconds': minimum: got 60, want 600"},
		"plugins for everyone":   {"plugins: {components: {enabled: true, directory: /tmp/dapr-components-sockets}}", "at '/plugins/components/directory': 'not' failed"},
		"providers' tokens":      {`plugins: {secretProviderClasses: {audiences: [""]}}`, "at '/plugins/secretProviderClasses/audiences/0'"},
		"providers for everyone": {"plugins: {secretProviderClasses: {directory: /var/tmp/providers}}", "at '/plugins/secretProviderClasses/directory': 'not' failed"},
		"plugins, relative":      {"plugins: {components: {directory: run/plugins}}", "at '/plugins/components/directory'"},
		"digest":                 {"image: {digest: latest}", "at '/image/digest'"},
		"not a component":        {"stores: [{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: x}, spec: {type: secretstores.local.env}}]", "at '/stores/0/kind'"},
		"not a secret store":     {"stores: [{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {type: state.redis}}]", "at '/stores/0/spec/type'"},
		"store without a name":   {"stores: [{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {}, spec: {type: secretstores.local.env}}]", "at '/stores/0/metadata': missing property 'name'"},
		"slip in a policy":       {"policies: [{apiVersion: keywell.dev/v1alpha1, kind: AccessPolicy, metadata: {name: x}, spec: {rules: [{subjects: [{}], stores: [a], allow: [b], denied: [c]}]}}]", "at '/policies/0/spec/rules/0': additional properties 'denied' not allowed"},
		"rule without effect":    {"policies: [{apiVersion: keywell.dev/v1alpha1, kind: AccessPolicy, metadata: {name: x}, spec: {rules: [{subjects: [{}], stores: [a]}]}}]", "at '/policies/0/spec/rules/0'"},
		"slip in a scope":        {"scopes: [{storeName: vault, defaultAcces: deny}]", "at '/scopes/0': additional properties 'defaultAcces' not allowed"},
		"the agent's variables":  {"credentials: {HOST_IP: {secret: a, key: b}}", "has a meaning already; choose another name"},
		"Dapr's variables":       {"credentials: {DAPR_API_TOKEN: {secret: a, key: b}}", "has a meaning already; choose another name"},
		"no variable":            {"credentials: {VAULT-TOKEN: {secret: a, key: b}}", `credentials: "VAULT-TOKEN" is no name of an environment variable`},
		"credential itself":      {"credentials: {VAULT_TOKEN: " + canary + "}", "at '/credentials/VAULT_TOKEN': got string, want object"},
		"monitor, no metrics":    {"metrics: {enabled: false, serviceMonitor: {enabled: true}}", "metrics.serviceMonitor.enabled needs metrics.enabled"},
		"rule, no metrics":       {"metrics: {enabled: false, prometheusRule: {enabled: true}}", "metrics.prometheusRule.enabled needs metrics.enabled"},
		"dashboard, no metrics":  {"metrics: {enabled: false, dashboard: {enabled: true}}", "metrics.dashboard.enabled needs metrics.enabled"},
		"two stores of one name": {strings.Replace(store, "stores:", "stores:\n- {apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: vault}, spec: {type: secretstores.local.env}}", 1) + "{name: a, value: b}", `there are two stores "vault"`},
		"number":                 {store + "{name: burst, value: 1000000}", "at '/stores/0/spec/metadata/0/value': got number, want "},
		"Kubernetes Secret":      {store + "{name: vaultToken, secretKeyRef: {name: vault, key: token}}", `stores: vault: the secretKeyRef of "vaultToken" names a Kubernetes Secret, which the agent has no right to read. List the Secret in credentials`},

		"token":              {store + "{name: vaultToken, value: " + canary + "}", `stores: vault: the value of "vaultToken" ` + inline},
		"client secret":      {store + "{name: azureClientSecret, value: " + canary + "}", `"azureClientSecret" ` + inline},
		"AWS key":            {store + "{name: secretKey, value: " + canary + "}", `"secretKey" ` + inline},
		"AWS key, any case":  {store + "{name: ACCESSKEY, value: " + canary + "}", `"ACCESSKEY" ` + inline},
		"GCP key":            {store + "{name: private_key, value: " + canary + "}", `"private_key" ` + inline},
		"PFX":                {store + "{name: spnCertificate, value: " + canary + "}", `"spnCertificate" ` + inline},
		"PEM in any field":   {store + `{name: note, value: "-----BEGIN EC PRIVATE KEY-----\n` + canary + `"}`, `"note" ` + inline},
		"URL with password":  {store + "{name: endpoint, value: \"https://user:" + canary + "@example.com\"}", `"endpoint" ` + inline},
		"Vault's own prefix": {store + "{name: note, value: hvs." + canary + "}", `"note" ` + inline},
		"JWT":                {store + "{name: note, value: eyJ" + canary + ".eyJ" + canary + "}", `"note" ` + inline},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := render(test.values, newest, namespace)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v\nwant  %s", err, test.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes the credential: %v", err)
			}
		})
	}
}

// TestValuesAccepted: the other side of the checks for credentials.
func TestValuesAccepted(t *testing.T) {
	for name, item := range map[string]string{
		"path of a token":       "{name: vaultTokenMountPath, value: /etc/keywell/credentials/vault/token}",
		"path of a file":        "{name: secretsFile, value: /etc/keywell/credentials/demo/secrets.json}",
		"reference":             "{name: vaultToken, envRef: VAULT_TOKEN}",
		"URL":                   "{name: vaultAddr, value: \"https://vault.example.com:8200/a@b\"}",
		"boolean":               "{name: vaultKVUsePrefix, value: false}",
		"CA":                    `{name: caPem, value: "-----BEGIN CERTIFICATE-----\nMII"}`,
		"empty":                 `{name: vaultToken, value: ""}`,
		"ids":                   "{name: azureClientId, value: 5c8f}",
		"another store's field": "{name: vaultToken, secretKeyRef: {name: a, key: b}}\n  auth: {secretStore: other}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(store+item, newest, namespace); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKubeVersion(t *testing.T) {
	chart, err := os.ReadFile(chartDir + "/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var metadata struct{ KubeVersion string }
	if err := yaml.Unmarshal(chart, &metadata); err != nil || metadata.KubeVersion != ">=1.30.0-0" {
		t.Errorf("kubeVersion %q, %v; docs/install.md says 1.30", metadata.KubeVersion, err)
	}
}

// TestSchema: the schema knows each value and no other.
func TestSchema(t *testing.T) {
	raw, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(raw, &values); err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var known struct{ Properties map[string]any }
	if err := yaml.Unmarshal(schema, &known); err != nil {
		t.Fatal(err)
	}
	delete(known.Properties, "global") // Helm's, for a chart that includes this one
	if diff := cmp.Diff(slices.Sorted(maps.Keys(values)), slices.Sorted(maps.Keys(known.Properties))); diff != "" {
		t.Errorf("values.yaml and values.schema.json (-values +schema):\n%s", diff)
	}
}

// TestLint is helm lint.
func TestLint(t *testing.T) {
	version, err := common.ParseKubeVersion(newest)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range lint.RunAll(chartDir, nil, namespace, lint.WithKubeVersion(version)).Messages {
		if !strings.Contains(m.Err.Error(), "icon is recommended") {
			t.Errorf("%s", m)
		}
	}
}
