package csiprovider

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/csiprovider/v1alpha1"
	"github.com/keywell/keywell/pkg/providers/plugin"
	"github.com/keywell/keywell/pkg/secret"
)

// mount calls the provider.
func mount(ctx context.Context, client v1alpha1.CSIDriverProviderClient, request *v1alpha1.MountRequest) (providers.Payload, error) {
	out, err := client.Mount(ctx, request)
	if err != nil {
		return providers.Payload{}, plugin.Failure(ctx, "Mount", err)
	}
	if code := out.GetError().GetCode(); code != "" {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "provider answers Mount with the error code %s; its own log may say why", plain(code))
	}
	switch n := len(out.GetFiles()); {
	case n == 0:
		return providers.Payload{}, providers.Errorf(providers.Invalid, "provider returned no file: either the class lists none, or the provider writes files itself, "+
			"which no volume of Keywell's allows; configure it to return them (AWS: --driver-writes-secrets=true)")
	case n > maxFiles:
		return providers.Payload{}, providers.Errorf(providers.Invalid, "provider returned %d files, and %d are allowed; split the class", n, maxFiles)
	}
	fields := make(map[string]secret.Value, len(out.GetFiles()))
	for _, f := range out.GetFiles() {
		if _, twice := fields[f.GetPath()]; twice {
			return providers.Payload{}, providers.Errorf(providers.Invalid, "provider returned two files with the path %q; give each object of the class a name of its own", f.GetPath())
		}
		fields[f.GetPath()] = secret.New(f.GetContents())
	}
	return providers.Payload{Fields: fields, Version: versionOf(out.GetObjectVersion())}, nil
}

// versionOf is one version for all objects: a digest, because there may be many. Empty: the provider tells none.
func versionOf(objects []*v1alpha1.ObjectVersion) string {
	if len(objects) == 0 {
		return ""
	}
	all := make([]string, 0, len(objects))
	for _, o := range objects {
		all = append(all, fmt.Sprintf("%q=%q", o.GetId(), o.GetVersion()))
	}
	slices.Sort(all)
	sum := sha256.Sum256([]byte(strings.Join(all, "\n")))
	return hex.EncodeToString(sum[:8])
}

// plainCode is a code that can be shown: anything else may be a text, and hold what it should not.
var plainCode = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

func plain(code string) string {
	if !plainCode.MatchString(code) {
		return "(not shown: it is no code)"
	}
	return code
}
