// Package csi serves the CSI Identity and Node services: the edge where the kubelet asks for volumes.
//
// It checks that a request is one that this driver can serve, attests who asks, hands both to package volume and turns
// the answer into a gRPC code. All codes are in one table, in errors.go. It promises that every call is bounded in
// time and logged once, that neither a volume context nor a secret is ever logged, and that a panic ends one call and
// not the agent.
//
// It refuses what an ephemeral volume of secrets is not: block access, access from several nodes, a file system type,
// and a volume that the pod may write to. It has no Controller service, stages nothing and expands nothing.
//
// The socket is root's alone: the kubelet's word on which pod asks is believed because nobody else can speak (see
// package identity). One agent serves a socket at a time. A new one that is started beside it, during a rolling update
// with surge, gets an error and is expected to be restarted until the old one is gone: taking the socket over would
// leave two agents writing the same volumes.
//
// cmd/agent builds the Server and runs it.
package csi
