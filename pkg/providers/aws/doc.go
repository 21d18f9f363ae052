// Package aws is the drivers for AWS Secrets Manager (secretstores.aws.secretmanager) and AWS Systems Manager Parameter
// Store (secretstores.aws.parameterstore), on AWS' own SDK.
//
// A store reads as the agent (keys of its manifest, the SDK's default chain, an assumed role, or IAM Roles Anywhere) or as
// the pod that asks: then the pod's service-account token is exchanged for credentials of the role that its service account
// or the manifest names, or EKS Pod Identity knows, once for each service account.
//
// Reads that come within a moment are one call (BatchGetSecretValue, GetParameters). A read of what is cached asks for the
// version first (DescribeSecret, GetParameter without decryption) and for the value only if that is another.
//
// It refuses names that hold a version, because a policy decides about names and versions separately. It retries nothing:
// package resolve does, and finds the signing clock corrected, or expired credentials replaced, by then.
package aws
