package alibaba

import "github.com/keywell/keywell/pkg/providers"

// DriverDialing is the driver with another way to make connections.
func DriverDialing(dial dialer) providers.Driver { return driver(dial) }
