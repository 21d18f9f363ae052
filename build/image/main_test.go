package main_test

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tools are the image program and a small static program in the agent's place, built once.
type tools struct{ image, agent string }

func build(t *testing.T) tools {
	t.Helper()
	dir := t.TempDir()
	made := tools{image: filepath.Join(dir, "image"), agent: filepath.Join(dir, "agent")}
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	goBuild(t, "0", made.image, ".")
	goBuild(t, "0", made.agent, source)
	return made
}

func goBuild(t *testing.T, cgo, output, source string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-o", output, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (b tools) write(t *testing.T, agent string) []byte {
	t.Helper()
	output := filepath.Join(t.TempDir(), "image.tar")
	if out, err := b.run(agent, output); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	archive, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func (b tools) run(agent, output string) ([]byte, error) {
	return exec.Command(b.image, "-agent", agent, "-name", "keywell.test/keywell:1", "-version", "1", "-o", output).CombinedOutput()
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s belongs to %d:%d and is of %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
	}
}

// layer finds the layer among an archive's blobs: the one that is a tar.
func layer(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	for name, blob := range untar(t, archive) {
		if strings.HasPrefix(name, "blobs/") && !bytes.HasPrefix(blob, []byte("{")) {
			return untar(t, blob)
		}
	}
	t.Fatal("there is no layer")
	return nil
}

func TestImage(t *testing.T) {
	b := build(t)
	archive := b.write(t, b.agent)

	t.Run("holds the agent and certificates", func(t *testing.T) {
		files := layer(t, archive)
		var names []string
		for name := range files {
			names = append(names, name)
		}
		slices.Sort(names)
		want := []string{"agent", "etc/", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt"}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
		agent, err := os.ReadFile(b.agent)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(agent, files["agent"]) {
			t.Error("the agent is another program")
		}
		checkRoots(t, files["etc/ssl/certs/ca-certificates.crt"])
	})

	t.Run("has the certificates that are written alone too", func(t *testing.T) {
		output := filepath.Join(t.TempDir(), "certificates")
		if out, err := exec.Command(b.image, "-certificates", output).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		alone, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(alone, layer(t, archive)["etc/ssl/certs/ca-certificates.crt"]) {
			t.Error("they differ")
		}
	})

	t.Run("is the same for the same agent", func(t *testing.T) {
		// Another file of the same content, with another name, mode and time.
		data, err := os.ReadFile(b.agent)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), "other")
		if err := os.WriteFile(other, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(other, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(archive, b.write(t, other)) {
			t.Error("the archive depends on more than the agent's bytes")
		}
	})
}

func checkRoots(t *testing.T, encoded []byte) {
	t.Helper()
	count := 0
	for block, rest := pem.Decode(encoded); block != nil; block, rest = pem.Decode(rest) {
		count++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !cert.IsCA {
			t.Errorf("%s is no CA", cert.Subject)
		}
	}
	if count < 50 {
		t.Errorf("%d root certificates", count)
	}
}

func TestImageRefuses(t *testing.T) {
	b := build(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ agent, want string }{
		"a script":             {script, "is no Linux program"},
		"nothing":              {filepath.Join(dir, "missing"), "no such file"},
		"a dynamic program":    {dynamic(t, dir), "is dynamically linked"},
		"another architecture": {foreign(t, b.agent, dir), "neither amd64 nor arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.agent == "" {
				t.Skip("there is no C compiler")
			}
			output := filepath.Join(t.TempDir(), "image.tar")
			out, err := b.run(test.agent, output)
			if err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("error %v, output %s", err, out)
			}
			if _, err := os.Stat(output); err == nil {
				t.Error("an archive was written")
			}
		})
	}
}

// dynamic returns a program that needs a dynamic linker, or "" where none can be made.
func dynamic(t *testing.T, dir string) string {
	if _, err := exec.LookPath("gcc"); err != nil {
		return ""
	}
	source := filepath.Join(dir, "dynamic.go")
	if err := os.WriteFile(source, []byte("package main\n\nimport \"C\"\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	output := filepath.Join(dir, "dynamic")
	goBuild(t, "1", output, source)
	return output
}

// foreign returns the program with another machine in its header.
func foreign(t *testing.T, agent, dir string) string {
	data, err := os.ReadFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	const machineOffset, emS390 = 18, 22 // of the ELF header
	data[machineOffset] = emS390
	output := filepath.Join(dir, "foreign")
	if err := os.WriteFile(output, data, 0o700); err != nil {
		t.Fatal(fmt.Errorf("write %s: %w", output, err))
	}
	return output
}
