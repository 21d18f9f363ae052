package main

import (
	"bytes"
	"debug/elf"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/keywell/keywell/build/oci"
)

func main() {
	agent := flag.String("agent", "", "the agent, a static `program`")
	name := flag.String("name", "", "`name` of the image, with its tag")
	version := flag.String("version", "", "`version` of the agent, for the image's labels")
	output := flag.String("o", "", "`archive` to write")
	certificates := flag.String("certificates", "", "write the root certificates to this `file`, and nothing else")
	flag.Parse()
	if *certificates != "" {
		exit(os.WriteFile(*certificates, roots(), 0o644))
	}
	if *agent == "" || *name == "" || *version == "" || *output == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	exit(run(*agent, *name, *version, *output))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(agent, name, version, output string) error {
	program, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	arch, err := architecture(program)
	if err != nil {
		return fmt.Errorf("%s: %w", agent, err)
	}
	var archive bytes.Buffer
	if err := writeImage(&archive, program, arch, name, version); err != nil {
		return err
	}
	return os.WriteFile(output, archive.Bytes(), 0o644)
}

func writeImage(w io.Writer, program []byte, arch, name, version string) error {
	return oci.WriteArchive(w, oci.Image{
		Name:         name,
		Architecture: arch,
		Files: []oci.File{
			{Path: "agent", Mode: 0o755, Data: program},
			{Path: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Data: roots()},
		},
		Entrypoint: []string{"/agent"},
		User:       "0:0",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "Keywell",
			"org.opencontainers.image.description": "Node agent that gives Kubernetes pods their secrets",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.source":      "https://github.com/keywell/keywell",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	})
}

// roots returns the trusted certificates, as PEM, where Go looks for them.
func roots() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&all, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer takes everything
		}
	}
	return all.Bytes()
}

// architecture returns what a program was built for, as Go names it. There is nothing in the image that a dynamic
// program could be linked with, so one is refused.
func architecture(program []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", fmt.Errorf("is no Linux program: %w", err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return "", fmt.Errorf("is dynamically linked: build it with CGO_ENABLED=0")
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	default:
		return "", fmt.Errorf("is for %v, neither amd64 nor arm64", f.Machine)
	}
}
