package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/keywell/keywell/build/oci"
)

// BusyboxImage is in every cluster. Its commands are in /bin. Pods must say imagePullPolicy: Never, as there is no registry.
const BusyboxImage = "keywell.test/busybox:1"

const pauseImage = "keywell.test/pause:1"

// writeImages writes the archives of the images that every cluster has, and returns their paths.
func (l layout) writeImages(ctx context.Context) ([]string, error) {
	pause, err := os.ReadFile(filepath.Join(l.tools, "pause"))
	if err != nil {
		return nil, err
	}
	busybox, err := busyboxFiles(ctx)
	if err != nil {
		return nil, err
	}
	var archives []string
	for _, image := range []oci.Image{
		{
			Name:       pauseImage,
			Files:      []oci.File{{Path: "pause", Mode: 0o755, Data: pause}},
			Entrypoint: []string{"/pause"},
			User:       "65535:65535",
		},
		{
			Name:       BusyboxImage,
			Files:      busybox,
			Entrypoint: []string{"/bin/sh"},
			Env:        []string{"PATH=/bin"},
		},
	} {
		archive := l.path(strings.NewReplacer("/", "-", ":", "-").Replace(image.Name) + ".tar")
		if err := WriteImage(archive, image); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// busyboxFiles are the machine's static busybox and a link for each command that it knows.
func busyboxFiles(ctx context.Context) ([]oci.File, error) {
	data, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, err
	}
	list, err := exec.CommandContext(ctx, busyboxPath, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busyboxPath, err)
	}
	files := []oci.File{
		{Path: "bin/busybox", Mode: 0o755, Data: data},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\n")},
		{Path: "tmp/", Mode: 0o1777},
	}
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			files = append(files, oci.File{Path: "bin/" + name, Mode: 0o777, Link: "busybox"})
		}
	}
	return files, nil
}

// WriteImage writes the image's archive, for ImportImage, to a new file at path.
func WriteImage(path string, image oci.Image) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := oci.WriteArchive(f, image); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
