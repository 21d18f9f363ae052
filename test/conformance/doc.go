// Package conformance runs the CSI project's sanity suite (csi-test) against the agent's CSI services, with real
// volumes on real tmpfs. It holds tests only.
//
// The suite is written for drivers with a Controller service, which creates the volumes that the Node service
// publishes. For an ephemeral driver it is the kubelet that makes volumes up, so the test plays the kubelet on the
// suite's connection: CreateVolume is answered with a volume ID and the volume context that a kubelet sends for an
// inline volume, and publish calls get readonly, as the kubelet sends it for readOnly: true. With that, the specs that
// publish run for real instead of being skipped.
package conformance
