package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keywell/keywell/pkg/providers"
)

// ServiceAccounts reads annotations of service accounts, with the agent's right to get them, wherever pods run as them.
// It keeps nothing: what is read is worth a token exchange, which is made once an hour. It is safe for concurrent use.
type ServiceAccounts struct{ client *Client }

var _ providers.ServiceAccounts = (*ServiceAccounts)(nil)

// NewServiceAccounts returns ServiceAccounts.
func NewServiceAccounts(c *Client) *ServiceAccounts { return &ServiceAccounts{client: c} }

// Annotations returns the annotations of one service account.
func (s *ServiceAccounts) Annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	var account corev1.ServiceAccount
	err := s.client.core.Get().Namespace(namespace).Resource("serviceaccounts").Name(name).Do(ctx).Into(&account)
	switch {
	case err == nil:
		return account.Annotations, nil
	case apierrors.IsNotFound(err):
		return nil, providers.Errorf(providers.NotFound, "service account %s/%s does not exist", namespace, name)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return nil, providers.Errorf(providers.Denied,
			"the agent may not read service account %s/%s: grant it get on serviceaccounts, or leave out --service-account-annotations", namespace, name)
	case ctx.Err() != nil:
		return nil, providers.Errorf(providers.Unavailable, "read service account %s/%s: %w", namespace, name, ctx.Err())
	default:
		return nil, providers.Errorf(providers.Unavailable, "read service account %s/%s: %w", namespace, name, err)
	}
}
