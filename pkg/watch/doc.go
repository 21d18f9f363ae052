// Package watch tells callers when secrets change.
//
// A Subscription is one caller's interest in some secrets. It says when something may have changed (Ready), and then what
// (Take). How that reaches the caller is the business of package api, which is the only user.
//
// # What it costs
//
// Every distinct secret that anybody watches is a topic with one goroutine, which reads it when the store tells of a
// change (Hub.Changed) and otherwise when the store's refresh interval has passed. Reads go through the resolver, on
// behalf of one of the watchers. Only if the answer differs are watchers woken, and each then reads for itself, from
// the cache. So stores see distinct secrets, however many watch them.
//
// # What it promises
//
//   - Latest wins: a watcher that is slow, or away for a while, gets the content as it is then, not all that it missed.
//     Nothing is queued, and nobody waits for another.
//   - Nothing is handed over that the policy in force does not allow at that moment. A policy that takes the right to a
//     secret ends a Subscription to it; in a Subscription to all secrets of a store the secret silently drops out.
//   - A store that fails, closes or comes back is told as such, once. While the last good content is served as stale,
//     that is what is told; see package resolve.
//   - What is watched is bounded, for each caller and for all together.
//
// Payloads are not kept here: that is the resolver's cache.
package watch
