// Package chart_test renders the chart with Helm's own engine, which needs no cluster and no helm, and looks at what
// comes out: that Kubernetes' types can hold it, that it is what deploy/daemonset has, that it asks for no more rights
// than docs/install.md explains, and that the agent takes the manifests and flags that it is given.
package chart_test
