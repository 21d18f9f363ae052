// Package localenv is the driver for environment variables of the agent's own process (secretstores.local.env). It is
// meant for development and for values that a process supervisor already puts there.
//
// A secret is one variable: its name without the configured prefix, with one field of the same name. The package
// promises that some variables are never shown, whatever the prefix: APP_API_TOKEN and everything that starts with
// DAPR_, as in Dapr, and everything that starts with KEYWELL_, because the agent's own settings are no pod's business.
// The environment is read on every call. A process's environment does not change from outside, so there is no Notify.
package localenv

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// Type is Dapr's component type.
const Type = "secretstores.local.env"

func properties() []providers.Property { return []providers.Property{{Name: "prefix"}} }

// Driver returns the driver, which reads the environment of this process.
func Driver() providers.Driver { return DriverOf(os.Environ) }

// DriverOf returns a driver that reads environ, which has the form of os.Environ's result and is called on every read,
// concurrently.
func DriverOf(environ func() []string) providers.Driver {
	return providers.Driver{
		Type:           Type,
		Properties:     properties(),
		MissingIsEmpty: true,
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			d := cfg.Properties.Decode(properties())
			s := &store{prefix: d.String("prefix", ""), environ: environ}
			if err := d.Err(); err != nil {
				return nil, err
			}
			return s, nil
		},
	}
}

// store is the Provider.
type store struct {
	prefix  string
	environ func() []string
	closed  atomic.Bool
}

// Fetch returns the variable <prefix><name>. A variable that is not set is NotFound; a withheld one is Denied, whether
// it is set or not.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.ready(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	variable := s.prefix + q.Name
	if withheld(variable) {
		return providers.Payload{}, providers.Errorf(providers.Denied, "the environment variable of secret %q is withheld", q.Name)
	}
	for _, entry := range s.environ() {
		if name, value, ok := cut(entry); ok && name == variable && q.Name != "" {
			return providers.Payload{Fields: map[string]secret.Value{q.Name: secret.FromString(value)}}, nil
		}
	}
	return providers.Payload{}, providers.Errorf(providers.NotFound, "the environment variable of secret %q is not set", q.Name)
}

// List returns the variables that start with the prefix, without it.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.ready(ctx, q); err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range s.environ() {
		variable, _, ok := cut(entry)
		name, prefixed := strings.CutPrefix(variable, s.prefix)
		if ok && prefixed && name != "" && !withheld(variable) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Close makes further calls fail.
func (s *store) Close() error {
	s.closed.Store(true)
	return nil
}

func (s *store) ready(ctx context.Context, q providers.Query) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.closed.Load():
		return providers.Errorf(providers.Unavailable, "provider is closed")
	case q.Version != "" || q.Stage != "" || q.Namespace != "":
		return providers.Errorf(providers.Invalid, "environment variables have no versions, stages or namespaces")
	default:
		return nil
	}
}

// withheld tells whether a variable is never shown. Dapr's rule compares the upper-case name (components-contrib,
// secretstores/local/env).
func withheld(variable string) bool {
	name := strings.ToUpper(variable)
	return name == "APP_API_TOKEN" || strings.HasPrefix(name, "DAPR_") || strings.HasPrefix(name, "KEYWELL_")
}

// cut splits name=value. An entry without a name is none.
func cut(entry string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(entry, "=")
	return name, value, ok && name != ""
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
