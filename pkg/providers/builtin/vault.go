//go:build !no_vault

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault"
)

func vaultDrivers() []providers.Driver {
	return []providers.Driver{vault.Driver()}
}
