// Package oci writes container images of one layer as OCI archives, the form that containerd imports, with no Docker and
// no registry. The same Image always gives the same bytes: every time in it is the epoch, and files are sorted by path.
//
// The layout, the media types and the digests are those of the OCI image specification 1.1; the image's name travels in
// the annotation io.containerd.image.name, and its tag in org.opencontainers.image.ref.name.
package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image is what an archive holds.
type Image struct {
	Name         string            // with its tag, as pods ask for it: "keywell.test/busybox:1"
	Architecture string            // as Go names it; "" is the caller's
	Files        []File            // parents are added where they are missing, with mode 0755
	Entrypoint   []string          // command and first arguments
	Env          []string          // "KEY=value"
	User         string            // "UID", "UID:GID" or ""; "" is root
	Labels       map[string]string // may be nil
}

// File is a file, a directory or a symbolic link, owned by root.
type File struct {
	Path string // without a leading slash; one that ends in "/" is a directory
	Mode int64  // permission bits
	Link string // target of a symbolic link; "" for a file
	Data []byte
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type config struct {
	platform
	Config containerSpec `json:"config"`
	RootFS rootFS        `json:"rootfs"`
}

type containerSpec struct {
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	User       string            `json:"User,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// WriteArchive writes the image as a tar to w.
func WriteArchive(w io.Writer, image Image) error {
	tag := tagOf(image.Name)
	if tag == "" {
		return fmt.Errorf("image name %q has no tag", image.Name)
	}
	layer, err := layerOf(image.Files)
	if err != nil {
		return fmt.Errorf("layer of %s: %w", image.Name, err)
	}
	on := platform{Architecture: cmp.Or(image.Architecture, runtime.GOARCH), OS: "linux"}
	// encoding/json cannot fail on these types, which hold nothing but strings and numbers; it sorts a map's keys.
	configJSON, _ := json.Marshal(config{
		platform: on,
		Config:   containerSpec{Entrypoint: image.Entrypoint, Env: image.Env, User: image.User, Labels: image.Labels},
		RootFS:   rootFS{Type: "layers", DiffIDs: []string{digest(layer)}},
	})
	manifestJSON, _ := json.Marshal(manifest{
		SchemaVersion: 2,
		MediaType:     typeManifest,
		Config:        describe(typeConfig, configJSON),
		Layers:        []descriptor{describe(typeLayer, layer)},
	})
	named := describe(typeManifest, manifestJSON)
	named.Platform = &on
	named.Annotations = map[string]string{
		"io.containerd.image.name":          image.Name,
		"org.opencontainers.image.ref.name": tag,
	}
	indexJSON, _ := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{named}})

	return writeTar(w, []File{
		{Path: "oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Path: "index.json", Mode: 0o644, Data: indexJSON},
		{Path: blobPath(manifestJSON), Mode: 0o644, Data: manifestJSON},
		{Path: blobPath(configJSON), Mode: 0o644, Data: configJSON},
		{Path: blobPath(layer), Mode: 0o644, Data: layer},
	})
}

// tagOf is what follows the colon in an image's name, or "". A colon before a slash is a registry's port.
func tagOf(name string) string {
	_, tag, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	return tag
}

func layerOf(files []File) ([]byte, error) {
	byPath := map[string]File{}
	for _, f := range files {
		clean := path.Clean(f.Path)
		if clean != strings.TrimSuffix(f.Path, "/") || path.IsAbs(clean) || clean == "." || strings.HasPrefix(clean, "..") {
			return nil, fmt.Errorf("%q is not a clean relative path", f.Path)
		}
		if _, twice := byPath[clean]; twice {
			return nil, fmt.Errorf("%q is there twice", f.Path)
		}
		byPath[clean] = f
	}
	for _, f := range files {
		for dir := path.Dir(path.Clean(f.Path)); dir != "."; dir = path.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = File{Path: dir + "/", Mode: 0o755}
			}
		}
	}
	var sorted []File
	for _, f := range byPath {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var layer bytes.Buffer
	if err := writeTar(&layer, sorted); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

func writeTar(w io.Writer, files []File) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{Name: f.Path, Mode: f.Mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch {
		case strings.HasSuffix(f.Path, "/"):
			header.Typeflag = tar.TypeDir
		case f.Link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
		default:
			header.Typeflag, header.Size = tar.TypeReg, int64(len(f.Data))
		}
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := tw.Write(f.Data); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

func digest(blob []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(blob)) }

func blobPath(blob []byte) string { return fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(blob)) }

func describe(mediaType string, blob []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digest(blob), Size: len(blob)}
}
