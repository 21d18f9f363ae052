// Package gcp is the driver for Google Cloud Secret Manager (secretstores.gcp.secretmanager), on Google's generated gRPC
// service client and its OAuth 2 library.
//
// A project is read as the agent (a service-account key of the manifest, or application default credentials), or as the pod
// that asks: then the pod's service-account token is exchanged by workload identity federation, and the result, where a
// service account of the cloud is named, for a token of that, once for each service account.
//
// Google's handwritten client (cloud.google.com/go/secretmanager/apiv1) adds to the generated one what is done here anyway
// or must not be done twice: connections, credentials and retries. The checksum of every value is verified.
package gcp
