// Package resolve is the one door to stores.
//
// Every read of a secret, whether for a volume, an API call or a secretKeyRef, is Resolver.Resolve with a scope.Grant;
// a zero Grant is refused. Behind the door, work is proportional to distinct secrets, not to callers: answers are
// cached by Ref, concurrent reads of one Ref are one fetch, and each store has a deadline, a token bucket, a circuit
// breaker and a memory of when it asked to be left alone. When a refresh fails, the last good payload is served for
// staleFor and marked as stale.
//
// A read goes: key → cache → flight → limits → provider. The rules on the way:
//
//   - Content is fresh for the reader's MaxAge or the store's CacheTTL, and never past its NotAfter.
//   - NotFound and Denied are answers: they replace cached content and are remembered for NegativeTTL. Invalid removes
//     cached content and is not remembered, because it may be the reader's fault. Neither is ever hidden by a stale
//     answer.
//   - Unavailable, Unknown, Throttled and an expired deadline say nothing about the secret. They leave the last good
//     answer in place, and it is served unless the reader asked for a fresh one.
//   - A reader that wants a fresh answer, or comes after a change was announced, never shares a call that began before.
//   - A flight has RequestTimeout for everything: waiting for the limits, the call, and one retry after a short pause
//     if the store was unavailable. It goes on for the other readers when one gives up.
//   - A provider that panics, or does not return at its deadline, costs its readers an error and nobody else anything;
//     how many of its calls can hang is bounded.
//   - A provider is told which version is cached and may say that it is still the same instead of transferring the value,
//     for at most an hour, because the right to ask for a version may outlive the right to read.
//   - Request metadata is part of the key: what a driver makes of it is its own business, so nobody gets an answer to
//     another's.
//   - The calling pod's tokens reach a provider only where answers are kept per identity.
//
// The package knows no driver, no manifest and no protocol. Installing, replacing and removing stores is atomic per
// store and does not disturb the others. Package stores installs; the API, volumes and stores itself read.
package resolve
