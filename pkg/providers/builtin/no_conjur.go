//go:build no_conjur

package builtin

import "github.com/keywell/keywell/pkg/providers"

func conjurDrivers() []providers.Driver { return nil }
