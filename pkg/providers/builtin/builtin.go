// Package builtin lists the drivers that are compiled in.
//
// It is one table, read by the wiring in main and by whoever checks manifests. Adding a store is a line here; nothing
// registers itself. Drivers that bring an SDK stand in a file of their own each, which a build tag leaves out.
package builtin

import (
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/kubernetes"
	"github.com/keywell/keywell/pkg/providers/localenv"
	"github.com/keywell/keywell/pkg/providers/localfile"
)

// Drivers returns every driver that is compiled in, in the order of their types. The slice belongs to the caller.
func Drivers() []providers.Driver {
	all := slices.Concat(alibabaDrivers(), awsDrivers(), azureDrivers(), conjurDrivers(), gcpDrivers(), huaweiDrivers(), tencentDrivers(), vaultDrivers(), []providers.Driver{
		kubernetes.Driver(),
		localenv.Driver(),
		localfile.Driver(),
	})
	slices.SortFunc(all, func(a, b providers.Driver) int { return strings.Compare(a.Type, b.Type) })
	return all
}
