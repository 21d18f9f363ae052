//go:build !no_alibaba

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/alibaba"
)

func alibabaDrivers() []providers.Driver {
	return []providers.Driver{alibaba.Driver()}
}
