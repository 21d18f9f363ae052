// Package volume lays secrets out as files on tmpfs and keeps them there.
//
// A volume is a projection: items (which secret, which fields, which paths, modes, format) written into one tmpfs that
// belongs to this volume alone. Set knows the volumes of this node and does three things with one: Publish, Rotate and
// Unpublish. Publish and Rotate go through the same steps (authorise, read, project, write), so that a rotation can do
// nothing that a publish may not. The CSI service publishes and unpublishes, the rotation scheduler rotates, and the
// agent calls Recover when it starts.
//
// The package promises: a volume is all or nothing; it becomes visible complete and is replaced by one rename (the
// kubelet's "..data" convention); a publish that finds its volume correct touches nothing; after kill -9 at any
// instant Recover finds every published volume and removes what was half made. Names, paths and targets are hostile
// until checked. What attributes say is checked before any secret is read, every item is authorised before any secret
// is read, and what a store returns is checked before anything is written.
//
// A volume that can't be rotated keeps its files and becomes abnormal, which its condition, a metric and the log say.
// This is so even when the policy takes a grant back: policies are edited while pods run, what a process has read
// can't be taken from it, and the kubelet repeats its publish calls for running pods, which must not begin to fail.
// From then on the volume gets no update, and no new volume gets the secret.
//
// It knows no gRPC and no store. Mounting is in package volume/mount.
package volume
