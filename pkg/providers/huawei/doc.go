// Package huawei is the driver for Huawei Cloud's Cloud Secret Management Service (secretstores.huaweicloud.csms), on
// Huawei's own SDK.
//
// A store reads as the agent, with keys or with the agency of the machine, or as the pod, whose token the Identity and
// Access Management (IAM) exchanges. The SDK's calls know no context, so each has a client for itself that does (client).
// Its errors hold answers whole, so only their codes are passed on.
package huawei
