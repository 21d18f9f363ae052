// Package component reads the manifests that configure Keywell: Dapr's Component and Configuration (dapr.io/v1alpha1)
// and Keywell's AccessPolicy (keywell.dev/v1alpha1).
//
// It turns resource directories and configuration files into Manifests, once (Load) or for as long as they change
// (Watcher). It does no other I/O: it opens no store and resolves no reference, which is the work of package stores.
//
// The package promises that a manifest which Dapr accepts loads and means the same, with the differences listed below;
// that every fault is reported, not only the first, each with file, line, field and remedy; that text from a metadata
// value appears in no problem; and that the time and memory spent on a file are bounded, whatever is in it. A file that
// turns bad while it is watched keeps what it last contributed.
//
// Objects does the same for manifests that are objects of the cluster. It takes them as they are; package kube reads
// and watches them.
//
// A policy that can't be read must not open anything. Where a document that may hold one is faulty at the first load,
// so that there is no earlier version to keep, Rules denies every read until it is repaired (Manifests.Faulty).
// A Configuration that is an object of the cluster denies what it can't limit to the pods that name it.
//
// Deliberate differences from Dapr:
//
//   - Template tokens ({uuid}, {podName}, {namespace}, {appID}) are replaced in values written in a manifest and nowhere
//     else. Dapr replaces them in resolved secrets and environment variables too, which changes credentials that happen
//     to contain one.
//   - Quotes are taken off a value once, while its manifest is decoded. Dapr does it again to a resolved secret.
//   - The scopes of several Configurations are merged by store: a later one replaces the entries for the stores that it
//     names. In Dapr it drops all entries of the earlier ones, and so opens their stores.
//   - A Configuration in a resource directory counts like one given by name.
//   - A faulty name is an error where Dapr would load something that no one can address.
package component
