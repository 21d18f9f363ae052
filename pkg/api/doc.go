// Package api serves Dapr's secrets API, so that unmodified Dapr SDKs work against Keywell.
//
// One core answers three questions (get a secret, get all secrets of a store, describe this agent) and has two skins,
// HTTP and gRPC, which only translate. Who asks is attested by Options.Attest, what is allowed is decided by the
// policy in force, and secrets come from the resolver; this package reads no store and decides nothing by itself.
//
// # What is Dapr's
//
// Paths, messages, HTTP statuses, error codes, error texts, gRPC codes and the order of checks are those of daprd 1.18.
// The stores of a caller are those that are open and visible to it: the others do not exist, and a caller without any
// is told that no secret store is configured. One table, in errors.go, holds all failures.
//
// # What is added
//
//   - A key may hold raw slashes: /v1.0/secrets/store/a/b is the secret "a/b". Only the exact path
//     /v1.0/secrets/{store}/bulk is the bulk call; a secret named "bulk" is read by escaping any of its letters
//     (/v1.0/secrets/{store}/%62ulk), which Dapr's router allows as well, or over gRPC.
//   - Errors that concern a store carry details: a google.rpc.ErrorInfo whose reason tells a missing secret from a
//     denied one and from a store that is down, and a google.rpc.RetryInfo where the store said when to come back.
//   - Answers carry etag, age, keywell-stale and keywell-version, as HTTP headers or gRPC trailers. If-None-Match is
//     honoured; Cache-Control: no-cache (in gRPC as request metadata) asks the store anew.
//   - A bulk answer leaves out secrets that could not be read, and says how many in keywell-incomplete, unless the
//     request metadata failOnError is "true": then the first failure fails the call, as in Dapr. A secret that
//     vanished between listing and reading is not counted, and if nothing at all could be read the call fails.
//   - A daprd can have the stores as pluggable ones, on a socket of its own (Listeners.Plugin).
//   - Callers can be told of changes: by server-sent events, by an answer that is held back, and by Dapr's configuration
//     API, whose items are secrets here. Package watch holds the subscriptions.
//
// Every refusal of a read is on record with its rule, that of a store which is hidden, closed or unknown included. Names
// that a policy filters out of a bulk answer are not: nobody asked for them.
//
// # What is refused
//
// A query of more than 16 KiB, a body that does not arrive within 10 s, and more than a little added metadata.
// A value that is not UTF-8 text can't be carried by JSON strings or protobuf strings. It is refused, for the whole
// secret, rather than altered; a volume delivers it. Selectors that a store does not know are dropped, as Dapr does.
// Shutdown is refused, because the agent is not the caller's own.
package api
