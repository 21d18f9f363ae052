//go:build !no_huawei

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/huawei"
)

func huaweiDrivers() []providers.Driver {
	return []providers.Driver{huawei.Driver()}
}
