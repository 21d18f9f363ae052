// Package tencent is the driver for Tencent Cloud Secrets Manager (secretstores.tencentcloud.ssm), on Tencent's own SDK:
// its common part, which signs and sends; the service's two calls are described here.
//
// A store reads as the agent (keys of the manifest, a role by TKE's OIDC, or the role of the node) or as the pod, whose token
// STS exchanges for a session of the role that its service account names. The SDK has sources of credentials too, but they use
// connections of their own, and log.
//
// The SDK's errors hold answers whole, so only their codes are passed on.
package tencent
