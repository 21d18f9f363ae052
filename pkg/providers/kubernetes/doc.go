// Package kubernetes is the driver for Secrets of a Kubernetes API server (secretstores.kubernetes).
//
// Every request carries the token of the pod on whose behalf it is made, so that the pod's RBAC decides. The agent needs
// no right to read Secrets, and the driver has none: its connection, which all pods share, is made without credentials.
//
// What a pod was given is watched with the rights of its service account: one watch for each namespace and service
// account where these allow it, else one for each secret, else none, and then changes are found when the secret is read
// again. Watches bring names and versions, never content, and last no longer than the token that they were begun with
// and the reads that asked for them.
//
// It refuses a read that is on behalf of no pod, and never reads the credentials of a kubeconfig file.
package kubernetes
