// Package resolve is the one door to stores.
//
// Every read of a secret, whether for a volume, an API call or a secretKeyRef, is Resolver.Resolve with a scope.Grant;
// a zero Grant is refused. Behind the door, work is proportional to distinct secrets, not to callers: answers are
// cached by Ref, concurrent reads of one Ref are one fetch, and each store has a deadline, a token bucket, a circuit
// breaker and a memory of when it asked to be left alone. When a refresh fails, the last good payload is served for
// staleFor and marked as stale.
//
// The package knows no driver, no manifest and no protocol. Installing, replacing and removing stores is atomic per
// store and does not disturb the others.
package resolve
