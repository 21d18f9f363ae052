// Package agent has the end-to-end tests of Keywell: the agent's image, installed by the Helm chart, under a real kubelet
// and a real API server. They see what a user sees: files in pods, answers of the API, events, metrics.
//
// All tests share one cluster. Each has a namespace of its own, names the values that it wants Keywell installed with, and
// leaves nothing behind. KEYWELL_CLUSTER names a cluster that is up already, which is quicker while a test is written.
// At the end the measurements are printed.
package agent
