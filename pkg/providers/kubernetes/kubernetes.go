package kubernetes

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/keywell/keywell/pkg/kube"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// Type is Dapr's component type.
const Type = "secretstores.kubernetes"

// audience is the name under which the kubelet hands over a pod's token for the API server itself.
const audience = ""

func properties() []providers.Property {
	return []providers.Property{{Name: "defaultNamespace"}, {Name: "kubeconfigPath"}}
}

// Driver returns the driver.
func Driver() providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Identities: []providers.Identity{providers.AsPod},
		Selectors:  providers.Selectors{Namespace: true},
		Open:       open,
	}
}

// open prepares connections and makes none.
func open(_ context.Context, cfg providers.Config) (providers.Provider, error) {
	d := cfg.Properties.Decode(properties())
	namespace := d.String("defaultNamespace", "")
	kubeconfig := d.String("kubeconfigPath", "")
	if err := d.Err(); err != nil {
		return nil, err
	}
	server, err := kube.Config("", "keywell/kubernetes-store")
	if err != nil && kubeconfig != "" { // as in Dapr, the file is for use outside a cluster
		server, err = kube.Config(kubeconfig, "keywell/kubernetes-store")
	}
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "%w (metadata kubeconfigPath)", err)
	}
	c, err := newClient(rest.AnonymousClientConfig(server))
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "%w", err)
	}
	return &store{
		client:           c,
		defaultNamespace: namespace,
		log:              cfg.Logger,
		done:             make(chan struct{}),
		interest:         newInterest(),
	}, nil
}

// store is the Provider.
type store struct {
	client           *client
	defaultNamespace string
	log              *slog.Logger
	interest         *interest
	plainWatches     atomic.Bool // the API server can't begin a watch with a list

	closing sync.Once
	done    chan struct{} // closed by Close
}

// read is a query that has been checked.
type read struct {
	owner
	name    string // empty in a listing
	token   secret.Value
	expires time.Time
}

// Fetch reads a Secret with the pod's own rights. The payload's Version is the resource version.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	r, err := s.check(ctx, q)
	if err != nil {
		return providers.Payload{}, err
	}
	if len(validation.IsDNS1123Subdomain(r.name)) > 0 {
		return providers.Payload{}, missing(r.name)
	}
	var found struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	err = s.client.get(ctx, request{owner: r.owner, name: r.name, token: r.token, accept: acceptObject}, &found)
	if err == nil || providers.KindOf(err) == providers.NotFound {
		s.interest.read(r, found.Metadata.ResourceVersion, time.Now())
	}
	if err != nil {
		return providers.Payload{}, err
	}
	fields := make(map[string]secret.Value, len(found.Data))
	for name, value := range found.Data {
		fields[name] = secret.New(value)
	}
	return providers.Payload{Fields: fields, Version: found.Metadata.ResourceVersion}, nil
}

// List returns the names of the namespace's Secrets with the pod's own rights, which must include list. No content is
// transferred.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	r, err := s.check(ctx, q)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for next := ""; ; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []struct {
				Metadata struct {
					Name string `json:"name"`
				} `json:"metadata"`
			} `json:"items"`
		}
		err := s.client.get(ctx, request{owner: r.owner, token: r.token, accept: acceptNames, query: pageQuery(next)}, &page)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			names = append(names, item.Metadata.Name)
		}
		if next = page.Metadata.Continue; next == "" {
			break
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Close ends Notify and makes further calls fail.
func (s *store) Close() error {
	s.closing.Do(func() {
		close(s.done)
		s.client.close()
	})
	return nil
}

// check finds out where to read and with which token.
func (s *store) check(ctx context.Context, q providers.Query) (read, error) {
	if err := ctx.Err(); err != nil {
		return read{}, err
	}
	if s.closed() {
		return read{}, providers.ErrClosed()
	}
	if q.Version != "" || q.Stage != "" {
		return read{}, providers.Errorf(providers.Invalid, "a Kubernetes Secret has no earlier versions and no stages")
	}
	namespace := cmp.Or(q.Namespace, q.Caller.Namespace, s.defaultNamespace)
	if len(validation.IsDNS1123Label(namespace)) > 0 {
		return read{}, providers.Errorf(providers.Invalid, "%q is not the name of a namespace", namespace)
	}
	if q.Tokens == nil {
		return read{}, providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens)
	}
	token, expires, err := q.Tokens.Token(ctx, audience)
	if err != nil {
		return read{}, noToken(err)
	}
	return read{
		owner: owner{namespace: namespace, callerNamespace: q.Caller.Namespace, account: q.Caller.ServiceAccount},
		name:  q.Name, token: token, expires: expires,
	}, nil
}

func (s *store) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Interface guards.
var (
	_ providers.Lister   = (*store)(nil)
	_ providers.Notifier = (*store)(nil)
)
