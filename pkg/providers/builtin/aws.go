//go:build !no_aws

package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
)

func awsDrivers() []providers.Driver {
	return []providers.Driver{aws.ParameterStore(), aws.SecretsManager()}
}
