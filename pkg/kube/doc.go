// Package kube is what the agent knows of Kubernetes itself: how to reach the API server, the kubelet's plugin
// registration, which pods run on this node, who holds a service-account token, how to make one for a pod, and events on
// pods.
//
// It promises:
//
//   - Every list and watch of pods carries this node's name, and of a pod only what decides about its identity is kept.
//   - An identity is given for a token only if the API server vouches for it, for our audience, and it is bound to a pod
//     of this node that exists with the same UID and has not ended. It is given for no longer than a minute without
//     asking again, never past the token's expiry, and never once the pod is gone. While the API server is down, that
//     minute goes on for callers who are known, and new ones are told that it is down.
//   - A token is made for attested pods of this node only, bound to the pod, and made again only when it is about to end.
//   - Events never block who emits them, and never repeat what was said of a pod within minutes.
//   - The agent is registered with the kubelet exactly while its CSI socket is served.
//
// It refuses to read Secrets: the kubernetes driver does that, with the pods' own tokens and a connection of its own.
//
// Of client-go it links the REST client, one reflector and the types of two API groups: the typed clientset would
// double the size of the agent. Package main makes these parts and hangs them on the hooks of csi, api and volume.
package kube
