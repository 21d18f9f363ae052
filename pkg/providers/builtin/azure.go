//go:build !no_azure

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/azure"
)

func azureDrivers() []providers.Driver {
	return []providers.Driver{azure.Driver()}
}
