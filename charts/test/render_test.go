package chart_test

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	chartDir  = "../keywell"
	newest    = "v1.37.2" // the version that the end-to-end tests run
	namespace = "keywell-system"
)

// render returns what the templates give, by the template's path below templates/. Empty output is left out.
func render(values, kubeVersion, namespace string) (map[string]string, error) {
	chart, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	given, err := loader.LoadValues(strings.NewReader(values))
	if err != nil {
		return nil, err
	}
	version, err := common.ParseKubeVersion(kubeVersion)
	if err != nil {
		return nil, err
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	release := common.ReleaseOptions{Name: "keywell", Namespace: namespace, Revision: 1, IsInstall: true}
	top, err := util.ToRenderValues(chart, given, release, capabilities)
	if err != nil {
		return nil, err
	}
	all, err := engine.Render(chart, top)
	if err != nil {
		return nil, err
	}
	manifests := map[string]string{}
	for name, content := range all {
		if content := strings.TrimSpace(content); content != "" && path.Ext(name) != ".tpl" {
			_, below, _ := strings.Cut(name, "/templates/")
			manifests[below] = content + "\n"
		}
	}
	return manifests, nil
}

func mustRender(t *testing.T, values, kubeVersion string) map[string]string {
	t.Helper()
	manifests, err := render(values, kubeVersion, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

// objects are the rendered objects, hooks apart, in Kubernetes' own types. A field that these don't know is an error, so
// that a slip of the pen in a template is found.
type objects struct {
	daemonSet appsv1.DaemonSet
	driver    storagev1.CSIDriver
	config    corev1.ConfigMap
	account   corev1.ServiceAccount
	role      rbacv1.ClusterRole
	binding   rbacv1.ClusterRoleBinding
	roles     []rbacv1.Role        // one for each namespace where tokens may be made
	bindings  []rbacv1.RoleBinding // of the roles, in their order
	service   corev1.Service
	monitor   map[string]any
	crd       apiextensionsv1.CustomResourceDefinition
	rule      promRule
	dashboard corev1.ConfigMap
	kinds     []string // sorted
}

func decode(t *testing.T, manifests map[string]string) objects {
	t.Helper()
	var o objects
	targets := map[string]any{
		"DaemonSet": &o.daemonSet, "CSIDriver": &o.driver, "ConfigMap": &o.config, "ServiceAccount": &o.account,
		"ClusterRole": &o.role, "ClusterRoleBinding": &o.binding, "Service": &o.service, "ServiceMonitor": &o.monitor, "CustomResourceDefinition": &o.crd,
		"PrometheusRule": &o.rule,
	}
	for _, name := range slices.Sorted(maps.Keys(manifests)) {
		if name == "NOTES.txt" || strings.HasPrefix(name, "tests/") {
			continue
		}
		for _, doc := range documents(t, manifests[name]) {
			kind := kindOf(t, doc)
			target, ok := targets[kind]
			switch kind { // there may be several
			case "Role":
				o.roles = append(o.roles, rbacv1.Role{})
				mustDecode(t, doc, &o.roles[len(o.roles)-1])
				continue
			case "RoleBinding":
				o.bindings = append(o.bindings, rbacv1.RoleBinding{})
				mustDecode(t, doc, &o.bindings[len(o.bindings)-1])
				continue
			}
			if name == "dashboard.yaml" {
				kind, target = "ConfigMap of the dashboard", &o.dashboard
			}
			if !ok || slices.Contains(o.kinds, kind) {
				t.Fatalf("%s: unexpected %s", name, kind)
			}
			mustDecode(t, doc, target)
			o.kinds = append(o.kinds, kind)
		}
	}
	slices.Sort(o.kinds)
	return o
}

func mustDecode(t *testing.T, doc []byte, target any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(doc, target); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
}

// agent is the container of the DaemonSet.
func (o objects) agent() corev1.Container { return o.daemonSet.Spec.Template.Spec.Containers[0] }

func documents(t *testing.T, stream string) [][]byte {
	t.Helper()
	var docs [][]byte
	for r := yamlstream.NewYAMLReader(bufio.NewReader(strings.NewReader(stream))); ; {
		doc, err := r.Read()
		if err == io.EOF {
			return docs
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(doc)) > 0 {
			docs = append(docs, doc)
		}
	}
}

func kindOf(t *testing.T, doc []byte) string {
	t.Helper()
	var head struct{ Kind string }
	if err := yaml.Unmarshal(doc, &head); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return head.Kind
}
