package docs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keywell/keywell/internal/docpage"
	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/csi"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/providers/builtin"
	"github.com/keywell/keywell/pkg/stores"
	"github.com/keywell/keywell/pkg/volume"
)

// object is what the tests look at in a YAML document.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Spec struct {
		Volumes []struct {
			CSI struct {
				Driver     string            `yaml:"driver"`
				ReadOnly   bool              `yaml:"readOnly"`
				Attributes map[string]string `yaml:"volumeAttributes"`
			} `yaml:"csi"`
		} `yaml:"volumes"`
	} `yaml:"spec"`
	Attributes map[string]string `yaml:"volumeAttributes"`
}

// TestYAML checks that every YAML block is something that Keywell takes without a finding.
func TestYAML(t *testing.T) {
	var cluster []string
	for _, name := range docpage.Cluster() {
		cluster = append(cluster, "docs/"+name)
	}
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if b.Language == "yaml" {
				t.Run(b.At, func(t *testing.T) { checkYAML(t, b.Text, b.Name != "" && slices.Contains(cluster, p.Path)) })
			}
		}
	}
}

// checkYAML checks one block. used says that a session uses it in a cluster, so that it may be anything there.
func checkYAML(t *testing.T, text string, used bool) {
	var o object
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	annotation := o.Metadata.Annotations["keywell.dev/api"]
	switch {
	case strings.HasPrefix(o.APIVersion, "dapr.io/"), strings.HasPrefix(o.APIVersion, "keywell.dev/"):
		checkManifests(t, text)
	case o.Kind == "Pod" && annotation != "":
		if wish := localhost.Asked.Wish(localhost.Pod{Annotation: annotation}); wish.Against != "" {
			t.Error(wish.Against)
		}
	case o.Kind == "Pod" && len(o.Spec.Volumes) > 0:
		for _, v := range o.Spec.Volumes {
			if v.CSI.Driver != csi.DefaultName || !v.CSI.ReadOnly {
				t.Errorf("the volume has driver %q and readOnly %t", v.CSI.Driver, v.CSI.ReadOnly)
			}
			if _, err := volume.ParseSpec(v.CSI.Attributes); err != nil {
				t.Error(err)
			}
		}
	case strings.HasPrefix(o.APIVersion, "rbac.authorization.k8s.io/"): // Kubernetes' own
	case o.Attributes != nil:
		if _, err := volume.ParseSpec(o.Attributes); err != nil {
			t.Error(err)
		}
	case used:
	default:
		t.Error("the block is neither a manifest nor a Pod nor volumeAttributes")
	}
}

func checkManifests(t *testing.T, text string) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "manifest.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m, problems := component.Load(component.Sources{Directories: []string{dir}, AppID: "shop", PodName: "shop-1"})
	if len(m.Components)+len(m.Configurations)+len(m.Policies) == 0 {
		t.Error("the block holds no manifest that is used")
	}
	// A block may refer to a store that another one defines.
	for _, c := range m.Components {
		if c.SecretStore != "" {
			m.Components = append(m.Components, component.Component{Name: c.SecretStore, Type: "secretstores.local.env"})
		}
	}
	for _, problem := range append(problems, stores.Check(m.Components, builtin.Drivers())...) {
		t.Error(problem)
	}
}

// TestSettings compares the table of the metadata that Keywell adds with what is known to the agent, and tries every
// default.
func TestSettings(t *testing.T) {
	page := load(t, filepath.Join(root, "docs/configuration.md"))
	check := func(name, value string) []component.Problem {
		dir := t.TempDir()
		manifest := "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: {type: secretstores.local.env, version: v1, " +
			"metadata: [{name: '" + name + "', value: '" + value + "'}]}\n"
		if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		m, problems := component.Load(component.Sources{Directories: []string{dir}})
		return append(problems, stores.Check(m.Components, builtin.Drivers())...)
	}
	unknown := check("zzzzzzzzzzzzzzzz", "")
	if len(unknown) != 1 {
		t.Fatalf("an unknown name gives %v", unknown)
	}
	_, list, _ := strings.Cut(unknown[0].Remedy, "known here: prefix, ")
	var documented []string
	for _, row := range table(t, page, "### What Keywell adds") {
		name, value := docpage.Code(row[0]), docpage.Code(row[1])
		documented = append(documented, name)
		for _, problem := range check(name, value) {
			t.Errorf("%s with its default: %v", name, problem)
		}
	}
	if got := strings.Join(documented, ", "); got != list {
		t.Errorf("the table has %s; the agent knows %s", got, list)
	}
}
