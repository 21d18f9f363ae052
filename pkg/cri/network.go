package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrHostNetwork is returned for a sandbox that is in the node's network.
var ErrHostNetwork = errors.New("the pod is in the node's network")

// ErrGone is returned for a sandbox that is not ready any more.
var ErrGone = errors.New("the sandbox is gone")

// NetworkNamespace returns the path on which the network namespace of a sandbox is mounted on the node. The error is
// ErrHostNetwork, ErrGone, or says what the runtime did not.
func (r *Runtime) NetworkNamespace(ctx context.Context, id string) (path string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := r.client.PodSandboxStatus(ctx, &runtimev1.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	switch {
	case status.Code(err) == codes.NotFound:
		return "", ErrGone
	case err != nil:
		return "", fmt.Errorf("ask the container runtime for a sandbox: %w", err)
	case answer.GetStatus().GetState() != runtimev1.PodSandboxState_SANDBOX_READY:
		return "", ErrGone
	case answer.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimev1.NamespaceMode_NODE:
		return "", ErrHostNetwork
	}
	path, err = namespaceOf(answer.GetInfo()["info"])
	if err != nil {
		return "", fmt.Errorf("what the container runtime says of a sandbox: %w", err)
	}
	return path, nil
}

// namespaceOf reads the verbose part of a status, which the CRI does not define. Both runtimes have the OCI
// specification of the sandbox' first container in it, and containerd has the path also where there is no such
// container. Sources: containerd, internal/cri/server/podsandbox/types; CRI-O, server/sandbox_status.go.
func namespaceOf(info string) (path string, err error) {
	var decoded struct {
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			}
		}
		SandboxMetadata struct {
			Metadata struct{ NetNSPath string }
		}
	}
	if info == "" {
		return "", errors.New("there is no verbose part")
	}
	if err := json.Unmarshal([]byte(info), &decoded); err != nil {
		return "", errors.New("the verbose part is not JSON of the form that is known")
	}
	for _, ns := range decoded.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			path = ns.Path
		}
	}
	if path == "" {
		path = decoded.SandboxMetadata.Metadata.NetNSPath
	}
	switch {
	case path == "":
		return "", errors.New("it names no network namespace")
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return "", fmt.Errorf("the network namespace %q is not an absolute path", path)
	case strings.HasPrefix(path, "/proc/"):
		// In the agent's container, the number is another process', or none's.
		return "", fmt.Errorf("the network namespace is a process', %q: let the runtime mount namespaces (CRI-O: manage_ns_lifecycle)", path)
	}
	return path, nil
}
