package chart_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// valueSets are values that change what is rendered, one kind of change each.
var valueSets = map[string]string{
	"defaults":          "",
	"no objects":        "objects: {enabled: false}",
	"no CRD":            "objects: {installCRD: false}",
	"trusted":           "objects: {componentNamespaces: [shop]}",
	"no API":            "api: {enabled: false}",
	"no built-in":       "disableBuiltinKubernetesSecretStore: true",
	"Dapr's spelling":   "disableBuiltinK8sSecretStore: true",
	"credentials":       "{credentials: {VAULT_TOKEN: {secret: vault, key: token}}, credentialFiles: [vault-tls]}",
	"service monitor":   "metrics: {serviceMonitor: {enabled: true}}",
	"cloud identities":  "serviceAccountAnnotations: true",
	"tokens":            "requestTokens: {enabled: true}",
	"tokens of some":    "requestTokens: {enabled: true, namespaces: [shop, bank]}",
	"tokens of none":    "requestTokens: {namespaces: [shop]}",
	"monitoring":        "metrics: {prometheusRule: {enabled: true}, dashboard: {enabled: true}}",
	"no metrics":        "metrics: {enabled: false}",
	"localhost":         "localhost: {enabled: true}",
	"components":        "plugins: {components: {enabled: true}}",
	"classes":           "plugins: {secretProviderClasses: {enabled: true, audiences: [vault]}}",
	"other directories": "{kubeletRoot: /data/kubelet, stateDir: /run/other}",
}

// TestRights holds what docs/install.md explains, under every set of values.
func TestRights(t *testing.T) {
	for name, values := range valueSets {
		t.Run(name, func(t *testing.T) {
			o := decode(t, mustRender(t, values, newest))
			checkContainer(t, o)
			checkRole(t, o)
		})
	}
}

func checkContainer(t *testing.T, o objects) {
	t.Helper()
	c := o.agent()
	yes, root := true, int64(0)
	want := &corev1.SecurityContext{
		Privileged:             &yes, // for mountPropagation: Bidirectional
		ReadOnlyRootFilesystem: &yes,
		RunAsUser:              &root,
		RunAsGroup:             &root,
		SeccompProfile:         &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		Capabilities: &corev1.Capabilities{
			Drop: []corev1.Capability{"ALL"},
			Add:  []corev1.Capability{"CHOWN", "DAC_READ_SEARCH", "FOWNER", "SYS_ADMIN"},
		},
	}
	if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
		t.Errorf("security context (-want +got):\n%s", diff)
	}
	spec := o.daemonSet.Spec.Template.Spec
	if spec.HostPID || spec.HostIPC || len(spec.InitContainers) > 0 || len(spec.Containers) != 1 {
		t.Error("the pod is more than one container in the node's network")
	}
	var paths, propagated []string
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	for _, m := range c.VolumeMounts {
		if m.MountPropagation != nil {
			propagated = append(propagated, fmt.Sprint(m.Name, " ", *m.MountPropagation, " ", m.ReadOnly))
		}
	}
	kubelet, state := "/var/lib/kubelet", "/run/keywell"
	if !slices.Contains(paths, state) {
		kubelet, state = "/data/kubelet", "/run/other"
	}
	wantPaths := []string{kubelet + "/plugins/csi.keywell.dev", kubelet + "/plugins_registry", kubelet + "/pods", state}
	wantPropagated := []string{"pods Bidirectional false"}
	if slices.Contains(c.Args, "--localhost=asked") {
		wantPaths = append(wantPaths, "/run/containerd", "/var/run/netns")
		wantPropagated = append(wantPropagated, "runtime HostToContainer true", "namespaces HostToContainer true")
	}
	if slices.Contains(c.Args, "--components-sockets=/run/keywell-components") {
		wantPaths = append(wantPaths, "/run/keywell-components")
	}
	if slices.Contains(c.Args, "--provider-sockets=/var/run/secrets-store-csi-providers") {
		wantPaths = append(wantPaths, "/var/run/secrets-store-csi-providers")
	}
	if diff := cmp.Diff(wantPaths, paths); diff != "" {
		t.Errorf("the node's directories (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantPropagated, propagated); diff != "" {
		t.Errorf("mounts that propagate (-want +got):\n%s", diff)
	}
}

func checkRole(t *testing.T, o objects) {
	t.Helper()
	read := []string{"list", "watch"}
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: read},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
	}
	if slices.Contains(o.agent().Args, "--cluster-objects") {
		want = append(want,
			rbacv1.PolicyRule{APIGroups: []string{"dapr.io"}, Resources: []string{"components", "configurations"}, Verbs: read},
			rbacv1.PolicyRule{APIGroups: []string{"keywell.dev"}, Resources: []string{"accesspolicies"}, Verbs: read})
	}
	if slices.Contains(o.agent().Args, "--provider-sockets=/var/run/secrets-store-csi-providers") {
		want = append(want, rbacv1.PolicyRule{APIGroups: []string{"secrets-store.csi.x-k8s.io"}, Resources: []string{"secretproviderclasses"}, Verbs: read})
	}
	if slices.Contains(o.agent().Args, "--service-account-annotations") {
		want = append(want, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"get"}})
	}
	if slices.Contains(o.agent().Args, "--request-tokens") && len(o.roles) == 0 {
		want = append(want, tokensRule)
	}
	if slices.ContainsFunc(o.agent().Args, func(a string) bool { return strings.HasPrefix(a, "--token-audience") }) {
		want = append(want, rbacv1.PolicyRule{
			APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"},
		})
	}
	if diff := cmp.Diff(want, o.role.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if o.binding.RoleRef.Name != o.role.Name || o.binding.Subjects[0].Name != o.account.Name ||
		o.binding.Subjects[0].Namespace != namespace || o.daemonSet.Spec.Template.Spec.ServiceAccountName != o.account.Name {
		t.Errorf("role, binding, service account and pod don't belong together: %+v", o.binding)
	}
}

var tokensRule = rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}}

// TestTokensOfSomeNamespaces: the right to make tokens can be had for some namespaces, and is off by default.
func TestTokensOfSomeNamespaces(t *testing.T) {
	for values, namespaces := range map[string][]string{
		"": nil, "tokens": nil, "tokens of none": nil, "tokens of some": {"shop", "bank"},
	} {
		t.Run(values, func(t *testing.T) {
			o := decode(t, mustRender(t, valueSets[values], newest))
			var got []string
			for i, r := range o.roles {
				got = append(got, r.Namespace)
				if diff := cmp.Diff([]rbacv1.PolicyRule{tokensRule}, r.Rules); diff != "" {
					t.Errorf("rules (-want +got):\n%s", diff)
				}
				b := o.bindings[i]
				if b.Namespace != r.Namespace || b.RoleRef.Name != r.Name || b.Subjects[0].Name != o.account.Name || b.Subjects[0].Namespace != namespace {
					t.Errorf("the binding of %s is %+v", r.Namespace, b)
				}
			}
			if diff := cmp.Diff(namespaces, got); diff != "" {
				t.Errorf("namespaces (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNoRuleOnSecrets looks at every role in every manifest, test hooks included: the only right to read a Secret is
// that of the test pod, to read its own.
func TestNoRuleOnSecrets(t *testing.T) {
	for name, values := range valueSets {
		t.Run(name, func(t *testing.T) {
			for file, content := range mustRender(t, values, newest) {
				if file == "NOTES.txt" {
					continue
				}
				for _, doc := range documents(t, content) {
					checkNoSecrets(t, doc)
				}
			}
		})
	}
}

func checkNoSecrets(t *testing.T, doc []byte) {
	t.Helper()
	if kind := kindOf(t, doc); kind != "Role" && kind != "ClusterRole" {
		return
	}
	var role rbacv1.Role // has the fields of a ClusterRole that are used
	if err := yaml.UnmarshalStrict(doc, &role); err != nil {
		t.Fatal(err)
	}
	for _, r := range role.Rules {
		all := slices.Concat(r.Resources, r.Verbs, r.APIGroups)
		own := slices.Equal(r.ResourceNames, []string{"keywell-test"}) && slices.Equal(r.Verbs, []string{"get"})
		if slices.Contains(all, "*") || slices.Contains(r.Resources, "secrets") && !(role.Name == "keywell-test" && own) {
			t.Errorf("role %s: %+v", role.Name, r)
		}
	}
}

// TestMemory holds the limit against what the agent may be charged for.
func TestMemory(t *testing.T) {
	o := decode(t, mustRender(t, "", newest))
	limit := o.agent().Resources.Limits[corev1.ResourceMemory]
	need := resource.MustParse("384Mi") // volumes.maxNodeMiB and 128 MiB
	if limit.Cmp(need) < 0 {
		t.Errorf("the memory limit is %v, and %v may be needed", limit.String(), need.String())
	}
	if _, ok := o.agent().Resources.Limits[corev1.ResourceCPU]; ok {
		t.Error("there is a limit for CPU")
	}
}

// TestPathsAgree: the agent tells the kubelet paths, so each must be the same on both sides.
func TestPathsAgree(t *testing.T) {
	o := decode(t, mustRender(t, valueSets["other directories"], newest))
	byName := map[string]string{}
	for _, v := range o.daemonSet.Spec.Template.Spec.Volumes {
		if v.HostPath != nil {
			byName[v.Name] = v.HostPath.Path
		}
	}
	for _, m := range o.agent().VolumeMounts {
		if on, ok := byName[m.Name]; ok && on != m.MountPath {
			t.Errorf("%s is %s on the node and %s in the container", m.Name, on, m.MountPath)
		}
	}
	for _, want := range []string{
		"--csi-socket=/data/kubelet/plugins/csi.keywell.dev/csi.sock", "--plugin-registry=/data/kubelet/plugins_registry",
		"--target-root=/data/kubelet/pods", "--state-dir=/run/other",
	} {
		if !slices.Contains(o.agent().Args, want) {
			t.Errorf("no argument %s among %q", want, o.agent().Args)
		}
	}
}
