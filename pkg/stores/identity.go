package stores

import (
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
)

// identityName is the metadata name that says with whose rights a store is read. It decides who may read, before any
// reference is resolved, so it is written in the manifest itself.
const identityName = "identity"

// identityOf returns with whose rights c wants to be read.
func identityOf(c component.Component, driver providers.Driver) (providers.Identity, *problem) {
	offered := driver.Identities
	if len(offered) == 0 {
		offered = []providers.Identity{providers.AsAgent}
	}
	i := slices.IndexFunc(c.Metadata, func(item component.Item) bool { return strings.EqualFold(item.Name, identityName) })
	if i < 0 {
		return offered[0], nil
	}
	item := c.Metadata[i]
	if fromEnv(item) || fromStore(item) {
		return "", fault(item.Position, identityName, "is a reference", "write the value itself")
	}
	if item.Value.Len() == 0 {
		return offered[0], nil
	}
	wanted := providers.Identity(item.Value.Reveal())
	if !slices.Contains(offered, wanted) {
		remedy := "write " + string(offered[0])
		for _, other := range offered[1:] {
			remedy += " or " + string(other)
		}
		return "", fault(item.Position, identityName, "has a value that does not work", remedy)
	}
	return wanted, nil
}

// PodAuthorized reports whether c wants to be read with the calling pod's own tokens, so that the pod's rights in the
// store decide. It is false for a component that can't be opened as it is written.
func PodAuthorized(c component.Component, drivers []providers.Driver) bool {
	i := slices.IndexFunc(drivers, func(d providers.Driver) bool { return d.Type == c.Type })
	if i < 0 {
		return false
	}
	identity, p := identityOf(c, drivers[i])
	return p == nil && identity == providers.AsPod
}
