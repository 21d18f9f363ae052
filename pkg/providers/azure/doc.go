// Package azure is the driver for Azure Key Vault (secretstores.azure.keyvault), on Microsoft's own SDK.
//
// A vault is read as the agent (client secret, certificate, workload identity, managed identity or the Azure CLI, in Dapr's
// order), or as the pod that asks: then the pod's service-account token is exchanged for one of the application or managed
// identity that its service account or the manifest names, once for each service account.
//
// Besides secrets it reads certificates (chain and key in PEM) and the public part of keys.
//
// Tokens are asked for the vault's own resource, whatever the vault's challenge says, and in the manifest's tenant. The
// SDK's errors hold answers whole, so none is passed on: only code and status are.
package azure
