// Package volume lays secrets out as files on tmpfs and keeps them there.
//
// A volume is a projection: items (which secret, which fields, which paths, modes, format) written into one tmpfs that
// belongs to this volume alone. Set knows the volumes of this node and does three things with one: Publish, Rotate and
// Unpublish. All three go through the same steps (authorise, resolve, project, write), so that a rotation can do
// nothing that a publish may not.
//
// The package promises: a volume is all or nothing; it becomes visible complete and is replaced by one rename (the
// kubelet's "..data" convention); a publish that finds its volume correct touches nothing; after kill -9 at any
// instant Recover finds every published volume and removes what was half made. Names, paths and targets are hostile
// until checked, and are checked before any secret is read.
//
// It knows no gRPC and no store. Mounting is in package volume/mount.
package volume
