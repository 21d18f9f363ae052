package aws

import (
	"net/http"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
)

// SecretsManagerDialing and ParameterStoreDialing are the drivers with another way to make connections.
func SecretsManagerDialing(dial connect.Dialer) providers.Driver { return secretsManager(dial) }

func ParameterStoreDialing(dial connect.Dialer) providers.Driver { return parameterStore(dial) }

// PastProxy is the client for what is on the node itself.
func PastProxy(t *http.Transport) *http.Client { return pastProxy(t) }
