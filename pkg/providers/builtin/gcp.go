//go:build !no_gcp

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gcp"
)

func gcpDrivers() []providers.Driver {
	return []providers.Driver{gcp.Driver()}
}
