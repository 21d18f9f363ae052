package component

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFileSize bounds a manifest file. A ConfigMap can't hold more.
const maxFileSize = 1 << 20

// Sources says where manifests come from and what their templates mean.
type Sources struct {
	// Directories are resource directories. Their *.yaml and *.yml files are read in the order of their names, those of
	// subdirectories and those whose name starts with a dot are not. A symbolic link counts as what it points to, which
	// makes the mount of a ConfigMap a resource directory.
	Directories []string
	// Files are configuration files (Dapr's --config), applied in order after the directories.
	Files []string

	// Namespace leaves out components that name another namespace. Empty: none is left out. It is Dapr's NAMESPACE
	// environment variable in self-hosted mode.
	Namespace string
	AppID     string // for {appID} and {namespace}
	PodName   string // for {podName}; empty: a manifest that uses the token is an error

	// LookupEnv gives the values of $VAR and ${VAR} in Files, in which Dapr replaces them throughout. Nil: they stay.
	LookupEnv func(name string) (string, bool)
}

// Load reads all sources once. Problems come in the order of the sources; with problems or without, the Manifests hold
// everything that could be used.
func Load(src Sources) (*Manifests, []Problem) {
	m, problems, _ := newSnapshot(src).load()
	return m, problems
}

// list returns the paths of a resource directory's manifests, sorted.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || !(strings.EqualFold(ext, ".yaml") || strings.EqualFold(ext, ".yml")) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			continue
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// read returns a file's content if it is a regular file of bearable size. It does not wait for the writer of a pipe.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(content) > maxFileSize {
		err = fmt.Errorf("is larger than %d bytes", maxFileSize)
	}
	return content, err
}
