// Package conjur is the driver for CyberArk Conjur (secretstores.cyberark.conjur), on Conjur's REST API. Dapr has none.
//
// An account of Conjur is read as the agent (a host's API key, or a JSON web token from a file), or as the pod that asks: then
// the pod's service-account token is exchanged by the authenticator authn-jwt, once for each service account. Access tokens
// live for minutes; they are replaced before their end, and once more when Conjur does not accept one.
//
// CyberArk's client library is not used: it takes no contexts, looks for credentials in files, keyrings and the environment by
// itself, and shows whole answers in its errors. See docs/decisions/2026-11-26-cloud-stores.md.
package conjur
