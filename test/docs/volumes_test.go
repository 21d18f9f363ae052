package docs_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/tools/txtar"

	"github.com/keywell/keywell/internal/docpage"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

// TestVolumeExamples projects the secrets of docs/volumes.md as each example says and compares the files with those
// that stand below it.
func TestVolumeExamples(t *testing.T) {
	page := load(t, filepath.Join(root, "docs/volumes.md"))
	at := slices.IndexFunc(page.Blocks, func(b docpage.Block) bool { return b.Name == "secrets.json" })
	if at < 0 {
		t.Fatal("the page has no secrets.json")
	}
	var secrets map[string]map[string]string
	if err := json.Unmarshal([]byte(page.Blocks[at].Text), &secrets); err != nil {
		t.Fatal(err)
	}
	examples := 0
	for i, b := range page.Blocks {
		if b.Language != "txtar" {
			continue
		}
		examples++
		t.Run(b.At, func(t *testing.T) {
			if diff := cmp.Diff(b.Text, project(t, page.Blocks[i-1].Text, secrets)); diff != "" {
				t.Errorf("files (-page +volume):\n%s", diff)
			}
		})
	}
	if examples < 5 {
		t.Errorf("there are %d examples", examples)
	}
}

// project returns the files of a volume as a txtar archive.
func project(t *testing.T, attributes string, secrets map[string]map[string]string) string {
	var o object
	if err := yaml.Unmarshal([]byte(attributes), &o); err != nil {
		t.Fatal(err)
	}
	spec, err := volume.ParseSpec(o.Attributes)
	if err != nil {
		t.Fatal(err)
	}
	sources := spec.Sources()
	payloads := make([]*providers.Payload, len(sources))
	for i, source := range sources {
		fields, ok := secrets[source.Ref.Name]
		if !ok {
			continue
		}
		payloads[i] = &providers.Payload{Fields: map[string]secret.Value{}}
		for name, value := range fields {
			payloads[i].Fields[name] = secret.FromString(value)
		}
	}
	files, err := spec.Project(payloads)
	if err != nil {
		t.Fatal(err)
	}
	var archive txtar.Archive
	for _, f := range files {
		archive.Files = append(archive.Files, txtar.File{Name: fmt.Sprintf("%s %#o", f.Path, f.Mode), Data: f.Data.Reveal()})
	}
	return string(txtar.Format(&archive))
}

// TestAttributes compares the table of volume attributes with what volumes take.
func TestAttributes(t *testing.T) {
	_, err := volume.ParseSpec(map[string]string{"zzzz": "", "store": "x", "secrets": "x"})
	if err == nil {
		t.Fatal("an unknown attribute is taken")
	}
	_, list, _ := strings.Cut(err.Error(), "the attributes are ")
	compareNames(t, "## Attributes", list)

	_, err = volume.ParseSpec(map[string]string{"store": "x", "secrets": "[{name: x, zzzz: x}]"})
	if err == nil {
		t.Fatal("an unknown member is taken")
	}
	_, list, _ = strings.Cut(err.Error(), "the members are ")
	compareNames(t, "## Items", list)
}

// compareNames compares the first column of a table of docs/volumes.md with a list.
func compareNames(t *testing.T, heading, list string) {
	t.Helper()
	want := strings.Split(list, ", ")
	var got []string
	for _, row := range table(t, load(t, filepath.Join(root, "docs/volumes.md")), heading) {
		got = append(got, docpage.Code(row[0]))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-volume +page):\n%s", heading, diff)
	}
}
