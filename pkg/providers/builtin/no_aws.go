//go:build no_aws

package builtin

import "github.com/keywell/keywell/pkg/providers"

func awsDrivers() []providers.Driver { return nil }
