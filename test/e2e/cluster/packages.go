package cluster

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const busyboxPath = "/bin/busybox"

// requirement is something that the machine must have, and the Debian package that brings it.
type requirement struct {
	pkg     string
	present func() bool
}

func requirements() []requirement {
	command := func(name string) func() bool {
		return func() bool { _, err := exec.LookPath(name); return err == nil }
	}
	return []requirement{
		{"busybox-static", func() bool { return isStatic(busyboxPath) }},
		{"iptables", command("iptables")},
		{"iproute2", command("ip")},
		{"util-linux", command("nsenter")},
		{"gcc", command("gcc")},
		{"pkg-config", command("pkg-config")},
		{"libseccomp-dev", func() bool { return exec.Command("pkg-config", "--exists", "libseccomp").Run() == nil }},
	}
}

// isStatic reports whether path is a program that needs no dynamic linker.
func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// installPackages installs what is missing, where it can. Otherwise its error names the packages.
func installPackages(ctx context.Context) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	advice := fmt.Errorf("the test cluster needs these Debian packages: %s", strings.Join(missing, " "))
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return advice
	}
	fmt.Fprintln(os.Stderr, "installing", strings.Join(missing, " "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return errors.Join(advice, fmt.Errorf("apt-get %s: %w", args[0], err))
		}
	}
	if missingPackages() != nil {
		return advice
	}
	return nil
}

func missingPackages() []string {
	var missing []string
	for _, r := range requirements() {
		if !r.present() {
			missing = append(missing, r.pkg)
		}
	}
	return missing
}
