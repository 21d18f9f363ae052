// Package providers is the contract between Keywell and the drivers of secret stores.
//
// A driver is one package that turns one kind of store into a Provider: Fetch one secret, Close. What else a store can
// do (list its names, say when something changed) is an optional interface of one method. Everything that stores have
// in common (cache, single flight, deadlines, rate limits, retries, stale answers, audit, authorisation) lives once,
// in package resolve, so a driver holds none of it: no cache, no retry loop, no logging of failures that it returns.
//
// Every driver passes providertest.Run; the suite is the contract in executable form. Drivers are listed in one table,
// package builtin, and never register themselves.
package providers
