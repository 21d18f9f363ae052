// Package alibaba is the driver for Alibaba Cloud OOS Parameter Store (secretstores.alicloud.parameterstore), on Alibaba
// Cloud's own SDK: its common part, which signs and sends; the service's two calls are described here.
//
// A store reads as the agent, with keys. The SDK's errors hold answers whole, so only their codes are passed on.
package alibaba
