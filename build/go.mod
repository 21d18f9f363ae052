// The agent's image, in a module of its own: it takes the root certificates from one, which the agent does not link.
module github.com/keywell/keywell/build

go 1.26.4

require (
	github.com/google/go-cmp v0.7.0
	golang.org/x/crypto/x509roots/fallback v0.0.0-20261030153154-30a33513ff6d
)
