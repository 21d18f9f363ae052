// Package kubetest is a small API server for tests: it speaks the real protocol of Kubernetes over loopback HTTP for the
// few resources that the agent uses (secrets, pods, events, tokenreviews), with lists in pages, watches, metadata-only
// answers and RBAC by token. It keeps its objects in memory as JSON, and counts what it is asked.
package kubetest
