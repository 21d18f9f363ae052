package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	dialTimeout    = 5 * time.Second  // to connect to the API server
	requestTimeout = 10 * time.Second // of one request that is not a watch
)

// Config says how to reach the API server: as the file kubeconfig says or, if that is empty, as the pod that the agent
// runs in. The error names the remedy. userAgent is what API server logs and audit records show.
func Config(kubeconfig, userAgent string) (*rest.Config, error) {
	cfg, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = userAgent
	cfg.QPS, cfg.Burst = 20, 40
	cfg.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	return cfg, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig: %w", err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, errors.New("not running in a pod of Kubernetes: name a kubeconfig file")
	case err != nil:
		return nil, fmt.Errorf("read the agent's own service-account token: %w", err)
	}
	return cfg, nil
}

// Client is a connection to the API server with the agent's own rights. It is safe for concurrent use.
type Client struct{ core, authentication rest.Interface }

// NewClient returns a Client. It does no I/O.
func NewClient(cfg *rest.Config) (*Client, error) {
	http, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare connections to the API server: %w", err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, authenticationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	codecs := serializer.NewCodecFactory(scheme)
	group := func(path string, gv schema.GroupVersion) (rest.Interface, error) {
		c := rest.CopyConfig(cfg)
		c.APIPath, c.GroupVersion = path, &gv
		c.NegotiatedSerializer = codecs.WithoutConversion()
		c.AcceptContentTypes, c.ContentType = runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON, runtime.ContentTypeJSON
		return rest.RESTClientForConfigAndClient(c, http)
	}
	core, err := group("/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	authentication, err := group("/apis", authenticationv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	return &Client{core: core, authentication: authentication}, nil
}

func orDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
