//go:build no_alibaba

package builtin

import "github.com/keywell/keywell/pkg/providers"

func alibabaDrivers() []providers.Driver { return nil }
