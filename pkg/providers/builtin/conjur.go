//go:build !no_conjur

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/conjur"
)

func conjurDrivers() []providers.Driver {
	return []providers.Driver{conjur.Driver()}
}
