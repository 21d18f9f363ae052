package aws

import "github.com/keywell/keywell/pkg/providers"

// SecretsManagerDialing and ParameterStoreDialing are the drivers with another way to make connections.
func SecretsManagerDialing(dial dialer) providers.Driver { return secretsManager(dial) }

func ParameterStoreDialing(dial dialer) providers.Driver { return parameterStore(dial) }
