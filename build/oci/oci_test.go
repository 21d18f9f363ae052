package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/build/oci"
)

func archive(t *testing.T, image oci.Image) map[string][]byte {
	t.Helper()
	var buf bytes.Buffer
	if err := oci.WriteArchive(&buf, image); err != nil {
		t.Fatal(err)
	}
	return untar(t, buf.Bytes())
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = append([]byte(h.Linkname), content...)
	}
}

// TestArchive follows the references from the index to the layer, as an importer does.
func TestArchive(t *testing.T) {
	files := archive(t, oci.Image{
		Name:       "keywell.test/hello:1",
		Files:      []oci.File{{Path: "opt/bin/hello", Mode: 0o755, Data: []byte("ELF")}, {Path: "bin", Link: "opt/bin"}},
		Entrypoint: []string{"/bin/hello"},
		User:       "65532",
		Labels:     map[string]string{"org.opencontainers.image.title": "hello"},

		Architecture: "arm64",
	})
	blob := func(digest string) []byte {
		data, ok := files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
		if !ok {
			t.Fatalf("no blob %s among %v", digest, slices.Sorted(maps.Keys(files)))
		}
		return data
	}
	type ref struct {
		Digest      string
		Size        int
		Annotations map[string]string
		Platform    struct{ Architecture, OS string }
	}
	var index struct{ Manifests []ref }
	var manifest struct {
		Config ref
		Layers []ref
	}
	var config struct {
		Architecture, OS string
		Config           struct {
			Entrypoint []string
			User       string
			Labels     map[string]string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode := func(data []byte, into any) {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	decode(files["index.json"], &index)
	decode(blob(index.Manifests[0].Digest), &manifest)
	decode(blob(manifest.Config.Digest), &config)
	layer := blob(manifest.Layers[0].Digest)

	names := map[string]string{"io.containerd.image.name": "keywell.test/hello:1", "org.opencontainers.image.ref.name": "1"}
	if diff := cmp.Diff(names, index.Manifests[0].Annotations); diff != "" {
		t.Errorf("the image's names (-want +got):\n%s", diff)
	}
	if p := index.Manifests[0].Platform; p.Architecture != "arm64" || p.OS != "linux" || config.Architecture != p.Architecture || config.OS != p.OS {
		t.Errorf("the index says %+v, the config %s/%s", p, config.OS, config.Architecture)
	}
	if len(layer) != manifest.Layers[0].Size {
		t.Errorf("the manifest gives the layer %d bytes; it has %d", manifest.Layers[0].Size, len(layer))
	}
	// The layer is not compressed, so that its digest is also its diff ID.
	if diff := cmp.Diff([]string{manifest.Layers[0].Digest}, config.RootFS.DiffIDs); diff != "" {
		t.Errorf("diff IDs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/bin/hello"}, config.Config.Entrypoint); diff != "" ||
		config.Config.User != "65532" || config.Config.Labels["org.opencontainers.image.title"] != "hello" {
		t.Errorf("config %+v", config.Config)
	}
	want := map[string][]byte{"opt/": {}, "opt/bin/": {}, "opt/bin/hello": []byte("ELF"), "bin": []byte("opt/bin")}
	if diff := cmp.Diff(want, untar(t, layer)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	a, b := oci.File{Path: "a", Data: []byte("a")}, oci.File{Path: "d/b", Data: []byte("b")}
	one := archive(t, oci.Image{Name: "n:1", Files: []oci.File{a, b}})
	two := archive(t, oci.Image{Name: "n:1", Files: []oci.File{b, a}})
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("the order of the files shows (-first +second):\n%s", diff)
	}
}

func TestArchiveRefuses(t *testing.T) {
	for name, image := range map[string]oci.Image{
		"no name":       {},
		"no tag":        {Name: "registry.test:5000/n"},
		"absolute path": {Name: "n:1", Files: []oci.File{{Path: "/etc/passwd"}}},
		"parent path":   {Name: "n:1", Files: []oci.File{{Path: "../etc"}}},
		"unclean path":  {Name: "n:1", Files: []oci.File{{Path: "a//b"}}},
		"the root":      {Name: "n:1", Files: []oci.File{{Path: "./"}}},
		"path twice":    {Name: "n:1", Files: []oci.File{{Path: "a"}, {Path: "a"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := oci.WriteArchive(io.Discard, image); err == nil {
				t.Error("accepted")
			}
		})
	}
}
