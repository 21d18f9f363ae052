package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keywell/keywell/pkg/scope"
)

// Keys that the kubelet writes into the volume context for a CSIDriver with podInfoOnMount. Source: Kubernetes,
// pkg/volume/csi/csi_mounter.go and https://kubernetes-csi.github.io/docs/pod-info.html.
const (
	podNameKey        = "csi.storage.k8s.io/pod.name"
	podNamespaceKey   = "csi.storage.k8s.io/pod.namespace"
	podUIDKey         = "csi.storage.k8s.io/pod.uid"
	serviceAccountKey = "csi.storage.k8s.io/serviceAccount.name"
)

var podKeys = [...]string{podNameKey, podNamespaceKey, podUIDKey, serviceAccountKey}

// ErrNoPod is returned for a volume context without any of the kubelet's keys about the pod.
var ErrNoPod = errors.New("the volume context does not say which pod it is for: set podInfoOnMount: true in the CSIDriver object")

// FromVolumeContext returns the identity of the pod that the kubelet publishes a volume for. The app id is the pod's
// name, Dapr's default. The error is ErrNoPod, or names the keys that are missing.
func FromVolumeContext(volumeContext map[string]string) (scope.Identity, error) {
	var missing []string
	for _, key := range podKeys {
		if volumeContext[key] == "" {
			missing = append(missing, key)
		}
	}
	switch {
	case len(missing) == len(podKeys):
		return scope.Identity{}, ErrNoPod
	case len(missing) > 0:
		return scope.Identity{}, fmt.Errorf("the volume context lacks %s", strings.Join(missing, ", "))
	}
	return scope.Identity{
		Namespace:      volumeContext[podNamespaceKey],
		ServiceAccount: volumeContext[serviceAccountKey],
		Pod:            volumeContext[podNameKey],
		PodUID:         volumeContext[podUIDKey],
		AppID:          volumeContext[podNameKey],
	}, nil
}

// Standalone returns an attester for an agent outside Kubernetes: a volume that the kubelet publishes has the pod's
// identity, and every other one has id. It trusts whoever reaches the socket, which must be root alone.
func Standalone(id scope.Identity) func(volumeContext map[string]string) (scope.Identity, error) {
	return func(volumeContext map[string]string) (scope.Identity, error) {
		pod, err := FromVolumeContext(volumeContext)
		if errors.Is(err, ErrNoPod) {
			return id, nil
		}
		return pod, err
	}
}
