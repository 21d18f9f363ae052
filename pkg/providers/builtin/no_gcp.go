//go:build no_gcp

package builtin

import "github.com/keywell/keywell/pkg/providers"

func gcpDrivers() []providers.Driver { return nil }
