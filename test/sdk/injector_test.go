package sdk_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/dapr/dapr/pkg/injector/patcher"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestInjector has Dapr's sidecar injector patch the pod of docs/plugins.md: the sidecar it adds has the volume, where the
// variable says that the sockets of plugins are.
func TestInjector(t *testing.T) {
	page, err := os.ReadFile("../../docs/plugins.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```yaml\napiVersion: v1\nkind: Pod\n")
	text, _, found := strings.Cut(text, "```")
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(text), &pod); err != nil || !found {
		t.Fatalf("the page's pod: %v", err)
	}
	config := patcher.NewSidecarConfig(&pod)
	config.SetFromPodAnnotations()
	if !config.NeedsPatching() {
		t.Fatal("the injector leaves the pod alone")
	}
	patch, err := config.GetPatch()
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.Marshal(&pod)
	if err != nil {
		t.Fatal(err)
	}
	if document, err = patch.Apply(document); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(document, &pod); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == "daprd" })
	if at < 0 {
		t.Fatal("there is no sidecar")
	}
	daprd := pod.Spec.Containers[at]
	const folder = "/mnt/keywell"
	if !slices.Contains(daprd.Env, corev1.EnvVar{Name: "DAPR_COMPONENTS_SOCKETS_FOLDER", Value: folder + "/dapr-components"}) {
		t.Errorf("its environment: %v", daprd.Env)
	}
	if !slices.ContainsFunc(daprd.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.Name == "keywell" && m.MountPath == folder && m.ReadOnly
	}) {
		t.Errorf("its mounts: %v", daprd.VolumeMounts)
	}
}
