// Package stores keeps the open stores equal to the manifests.
//
// Set is the reconciler between package component and the resolver. It is handed the wanted components (Apply), opens
// each with the driver of its type, installs it in the resolver, replaces what changed and removes what is gone. It
// resolves secretKeyRef and envRef on the way, in whatever order they depend on each other, and opens a store again when
// a secret that it refers to changes: when the resolver says so (Changed), and by looking at the source's refresh
// interval, since nobody else may be reading that secret.
//
// It promises: a store that did not change is not touched; one that is slow to open, or whose driver never returns, holds
// up none but those that refer to it; a store whose new manifest or referenced secret is bad keeps
// its last good instance in service; a store that could not be opened says why, with file, line, field and remedy
// (Status); a cause that may pass (a store out of reach, a secret not there yet) is retried with a growing pause, any
// other waits for a manifest to change.
//
// It refuses to open a store with anything missing. Dapr opens a component without the property whose reference could
// not be resolved (a local.env store without its prefix exposes the whole environment); here the store stays closed.
// ignoreErrors changes the level of a log line only, because one store that fails never stops the agent.
//
// Check finds, without any I/O to a store, what Set would refuse. The agent's main calls all of this.
package stores
