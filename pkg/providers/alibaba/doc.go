// Package alibaba is the driver for Alibaba Cloud OOS Parameter Store (secretstores.alicloud.parameterstore), on Alibaba
// Cloud's own SDK: its common part, which signs and sends; the service's two calls are described here.
//
// A store reads as the agent (keys of the manifest, a role by RRSA, or the role of the node) or as the pod, whose token STS
// exchanges for a session of the role that its service account names.
//
// The SDK's errors hold answers whole, so only their codes are passed on. With DEBUG=dara in the environment it prints what it
// sends, so no store opens then.
package alibaba
