//go:build no_huawei

package builtin

import "github.com/keywell/keywell/pkg/providers"

func huaweiDrivers() []providers.Driver { return nil }
