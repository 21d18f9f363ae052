package huawei

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
)

// DriverDialing is the driver with another way to make connections.
func DriverDialing(dial connect.Dialer) providers.Driver { return driver(dial) }
