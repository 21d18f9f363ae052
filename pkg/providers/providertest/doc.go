// Package providertest holds the conformance suite of drivers and a store in memory for other packages' tests.
//
// Run is the contract of package providers in executable form: the test file of every driver starts with a call of it
// and adds only what is peculiar to its store. A Harness tells the suite how to make an empty store, write to it
// behind the provider's back, and break it; what a store cannot do is left nil, and the suite then asserts that the
// provider refuses it.
//
// Memory is a complete store whose provider passes Run, with counters and switchable failures.
package providertest
