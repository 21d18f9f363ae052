package volume

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/keywell/keywell/pkg/volume/mount"
)

// spec reads everything that a record asks for. The error is an *InvalidError.
func (r record) spec() (Spec, error) {
	p := parser{at: "volume ID"}
	if r.ID == "" {
		p.reportf("is missing")
	}
	p.at = "target path"
	if !filepath.IsAbs(r.Target) {
		p.reportf("is %q; it must be absolute", r.Target)
	}
	p.at = "mount flag"
	for _, flag := range r.MountFlags {
		if _, ok := selinuxContext(flag); !ok {
			p.reportf("%q is not supported; only context=… is", flag)
		}
	}
	spec, problems := parseSpec(r.Attributes)
	p.problems = append(p.problems, problems...)
	if p.at = "mount group"; spec.GID < 0 && r.MountGroup != "" {
		spec.GID = parsed(&p, r.MountGroup, parseID)
	}
	if len(p.problems) > 0 {
		return Spec{}, &InvalidError{Problems: p.problems}
	}
	return spec, nil
}

// acceptable tells whether this agent can do what a volume asks for. The error is an *InvalidError.
func (s *Set) acceptable(spec Spec) error {
	if err := s.servesSockets(spec); err != nil {
		return err
	}
	if spec.Localhost && !s.opts.Localhost {
		return &InvalidError{Problems: []string{fmt.Sprintf("volume attribute %q asks for localhost, which is off: "+
			"set localhost.enabled in the chart's values (the agent's flag --container-runtime), or ask for socket", attrAPI)}}
	}
	if spec.Class != "" && !s.opts.Classes {
		return &InvalidError{Problems: []string{fmt.Sprintf("volume attribute %q asks for a provider of the Secrets Store CSI driver, which is off: "+
			"set plugins.secretProviderClasses.enabled in the chart's values (the agent's flag --provider-sockets)", attrClass)}}
	}
	_, err := s.limit(spec)
	return err
}

// limit is the size that the volume's files may have. The error is an *InvalidError.
func (s *Set) limit(spec Spec) (int64, error) {
	switch most := s.opts.MaxVolumeBytes; {
	case spec.Size == 0:
		return most, nil
	case spec.Size > most:
		return 0, &InvalidError{Problems: []string{
			fmt.Sprintf("volume attribute %q is %d bytes; the agent allows %d", attrSize, spec.Size, most),
		}}
	default:
		return spec.Size, nil
	}
}

// mountOptions leaves room for two generations, because both exist during a swap.
func (r record) mountOptions(limit int64) mount.Options {
	opts := mount.Options{Size: 2 * limit, Inodes: 2*maxEntries + extraEntries}
	for _, flag := range r.MountFlags {
		opts.Context, _ = selinuxContext(flag)
	}
	return opts
}

// extraEntries are the root directory, two generations' directories, ..data and ..data_tmp, two sockets and a new one.
const extraEntries = 8

// selinuxContext returns the context of a mount flag as the kubelet sends it. Quotes are for mount(8), which needs them
// around commas.
func selinuxContext(flag string) (string, bool) {
	context, ok := strings.CutPrefix(flag, "context=")
	return strings.Trim(context, `"`), ok && context != ""
}
