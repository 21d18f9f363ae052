//go:build no_vault

package builtin

import "github.com/keywell/keywell/pkg/providers"

func vaultDrivers() []providers.Driver { return nil }
