package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
)

// ReadObjects returns the manifests that are objects of the cluster, as an Objects would tell them, once. Where
// SecretProviderClasses are not to be read, there are none.
func ReadObjects(ctx context.Context, c *Client) ([]component.Object, error) {
	o, err := NewObjects(ObjectsOptions{Client: c, Manifests: true, Classes: true, OnChange: func([]component.Object) {}})
	if err != nil {
		return nil, err
	}
	for _, k := range o.kinds {
		_, err := o.list(ctx, k)
		hidden := k.kind == component.KindSecretProviderClass && apierrors.IsForbidden(err)
		if err != nil && !apierrors.IsNotFound(err) && !hidden {
			return nil, fmt.Errorf("list %s: %w", k.resource, err)
		}
	}
	all, _ := o.all()
	return all, nil
}

// ReadPod returns the identity that a pod has. It takes the right to list pods, which the agent has, and no other.
func ReadPod(ctx context.Context, c *Client, namespace, name string) (scope.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	selector := fields.AndSelectors(fields.OneTermEqualSelector("metadata.namespace", namespace), fields.OneTermEqualSelector("metadata.name", name))
	var found corev1.PodList
	if err := c.core.Get().Resource("pods").Param("fieldSelector", selector.String()).Do(ctx).Into(&found); err != nil {
		return scope.Identity{}, fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
	}
	for i := range found.Items {
		if pod, err := reduce(&found.Items[i]); err == nil && pod.Namespace == namespace && pod.Name == name {
			return pod.identity(), nil
		}
	}
	return scope.Identity{}, fmt.Errorf("pod %s/%s does not exist", namespace, name)
}
