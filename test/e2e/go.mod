// The end-to-end tests and their cluster, in a module of their own: they need nothing of the product but its binary,
// and the tests' own package that reads the documentation.
module github.com/keywell/keywell/test/e2e

go 1.26.4

require (
	github.com/google/go-cmp v0.7.0
	github.com/keywell/keywell v0.0.0
	github.com/keywell/keywell/build v0.0.0
	golang.org/x/sys v0.49.0
)

replace (
	github.com/keywell/keywell => ../..
	github.com/keywell/keywell/build => ../../build
)
