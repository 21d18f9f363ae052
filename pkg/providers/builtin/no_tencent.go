//go:build no_tencent

package builtin

import "github.com/keywell/keywell/pkg/providers"

func tencentDrivers() []providers.Driver { return nil }
