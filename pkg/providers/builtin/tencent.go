//go:build !no_tencent

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/tencent"
)

func tencentDrivers() []providers.Driver {
	return []providers.Driver{tencent.Driver()}
}
