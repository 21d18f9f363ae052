// Package identity turns evidence about a caller into a scope.Identity.
//
// An identity is attested, never asserted: each function here takes one kind of evidence and says why it can be
// believed. Evidence that is incomplete is refused; nothing is guessed, with one exception that Dapr makes too: a pod
// that is known by name only has its name as app id.
//
// The evidence for a volume is what the kubelet writes into the volume context of a publish call. It is believed
// because only root can reach the socket on which it arrives, and because the kubelet writes its keys over attributes
// of the same name that the pod's author chose. It does so only for a CSIDriver with podInfoOnMount, and for
// KubeletTokensKey only for one with tokenRequests: without these the keys are the author's, so both are part of what
// the agent must be installed with.
//
// The package also holds the service-account tokens that come with the evidence (Tokens), with which a store can
// check the pod itself. Tokens are secret.Values: they are not logged, recorded or printed.
//
// Package csi calls this package, through functions that cmd/agent hands to it.
package identity
