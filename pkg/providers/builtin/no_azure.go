//go:build no_azure

package builtin

import "github.com/keywell/keywell/pkg/providers"

func azureDrivers() []providers.Driver { return nil }
