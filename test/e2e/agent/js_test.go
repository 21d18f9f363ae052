package agent_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keywell/keywell/build/oci"
	"github.com/keywell/keywell/test/e2e/cluster"
)

const jsImage = "keywell.test/js:1"

// TestLocalhostJS calls the API with the Dapr JS SDK from a pod that nothing has configured. Its image is the machine's
// own Node.js, with the SDK that make sdk installs.
func TestLocalhostJS(t *testing.T) {
	needRoot(t)
	root, err := cluster.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("node")
	modules := filepath.Join(root, "test/sdk/js/node_modules")
	if _, missing := os.Stat(modules); err != nil || missing != nil {
		t.Skip("Node.js or the JS SDK is not installed: apt install nodejs npm, and make sdk")
	}
	archive := filepath.Join(t.TempDir(), "js.tar")
	image := oci.Image{Name: jsImage, Files: jsFiles(t, program, modules), Entrypoint: []string{"/node"}}
	if err := cluster.WriteImage(archive, image); err != nil {
		t.Fatal(err)
	}
	if err := node.ImportImage(t.Context(), archive); err != nil {
		t.Fatal(err)
	}

	installLocalhost(t, "javascript")
	ns := newNamespace(t, "javascript")
	apply(t, reader(ns, "app")+fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: %s, annotations: %s}
spec:
  serviceAccountName: app
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: %s, imagePullPolicy: Never, args: [-e, "setInterval(() => {}, 3600000)"]}
`, ns, toJSON(asksLocalhost), jsImage))
	p := pod{namespace: ns, name: "app"}
	p.waitReady(t)
	got := p.exec(t, "/node", "/app/localhost.mjs", vault, "db")
	for _, want := range []string{`HTTP {"password":"from a file"}`, `GRPC {"password":"from a file"}`} {
		if !strings.Contains(got, want) {
			t.Errorf("the SDK does not print %s:\n%s", want, got)
		}
	}
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// jsFiles are Node.js, the libraries that it is linked with, the SDK and the program.
func jsFiles(t *testing.T, program, modules string) []oci.File {
	t.Helper()
	read := func(source, path string, mode int64) oci.File {
		data, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		return oci.File{Path: path, Mode: mode, Data: data}
	}
	files := []oci.File{read(program, "node", 0o755), read("js/localhost.mjs", "app/localhost.mjs", 0o644)}
	linked, err := exec.CommandContext(t.Context(), "ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range library.FindAllStringSubmatch(string(linked), -1) {
		files = append(files, read(m[1], strings.TrimPrefix(m[1], "/"), 0o755))
	}
	err = filepath.WalkDir(modules, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		inside, err := filepath.Rel(modules, path)
		files = append(files, read(path, filepath.Join("app/node_modules", inside), 0o644))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
