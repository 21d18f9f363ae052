// Package lease keeps what stores issue: dynamic credentials, which a lease keeps valid, and certificates.
//
// Reading such a secret makes another one, so it is read once. A Keeper gives the same content to all who ask under one
// key until it has to be replaced, and then gets the next before the first ends, so that both work for a while. It has no
// clock of its own: a lease is prolonged when somebody asks and two thirds of it have passed. What nobody asks for any
// more ends by itself, or at once with Drop.
//
// A Keeper that is new can be told what an earlier one has issued (Adopt), by whoever still has the content; that the
// lease lives is checked with the store. Package resolve calls this package, between its cache and the driver.
package lease
