// Package vault reads secrets from HashiCorp Vault, or a server that speaks its API such as OpenBao.
//
// A store is one mount of one server (enginePath). What is mounted there is asked once: a KV engine of version 1 or 2 is
// read as Dapr reads it, by names below a prefix; any other engine is read by path, with the request metadata as
// arguments. Metadata names, defaults and answers that Dapr has are Dapr's (component
// secretstores.hashicorp.vault); everything else is an addition.
//
// The package promises that a name never reaches another path than the one it spells, that Vault's token and the pod's
// go to the configured host only, and that no error holds a token, a value or what Vault wrote in its answer. It logs in
// once per identity, the agent or a service account, keeps that token renewed, and logs in again when Vault refuses it.
package vault
