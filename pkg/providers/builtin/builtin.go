// Package builtin lists the drivers that are compiled in.
//
// It is one table, read by the wiring in main and by whoever checks manifests. Adding a store is a line here; nothing
// registers itself.
package builtin

import (
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/azure"
	"github.com/keywell/keywell/pkg/providers/gcp"
	"github.com/keywell/keywell/pkg/providers/kubernetes"
	"github.com/keywell/keywell/pkg/providers/localenv"
	"github.com/keywell/keywell/pkg/providers/localfile"
	"github.com/keywell/keywell/pkg/providers/vault"
)

// Drivers returns every driver that is compiled in, in the order of their types. The slice belongs to the caller.
func Drivers() []providers.Driver {
	return []providers.Driver{
		aws.ParameterStore(),
		aws.SecretsManager(),
		azure.Driver(),
		gcp.Driver(),
		vault.Driver(),
		kubernetes.Driver(),
		localenv.Driver(),
		localfile.Driver(),
	}
}
