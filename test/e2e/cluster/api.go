package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
)

// apiClient asks the API server, as the administrator, the few questions that Start has.
type apiClient struct{ http *http.Client }

func (c *Cluster) newAPIClient() (*apiClient, error) {
	admin, err := tls.LoadX509KeyPair(c.pki("admin.crt"), c.pki("admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the cluster's authority is not a certificate")
	}
	return &apiClient{&http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{admin}, RootCAs: roots},
		DialContext:     c.DialContext,
	}}}, nil
}

// get asks for the path and decodes the answer into it, unless that is nil. Any status but 200 is an error.
func (a *apiClient) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, apiURL+path, nil)
	if err != nil {
		return err
	}
	response, err := a.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// waitReady waits for the images, the API server, the node and the default service account, without which no pod is admitted.
func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-c.exited:
			cancel(fmt.Errorf("the node ended: %s", c.tail("node")))
		case <-ctx.Done():
		}
	}()
	imported := make(chan error, 1)
	go func() { imported <- c.importBaseImages(ctx) }()
	for _, wait := range []struct {
		what, component string
		done            func(context.Context) error
	}{
		{"the API server", "kube-apiserver", func(ctx context.Context) error { return c.api.get(ctx, "/readyz", nil) }},
		{"the default service account", "kube-controller-manager", func(ctx context.Context) error {
			return c.api.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
		}},
		{"the node", "kubelet", c.nodeReady},
	} {
		if err := poll(ctx, wait.done); err != nil {
			return fmt.Errorf("wait for %s: %w; the end of %s.log:\n%s", wait.what, err, wait.component, c.tail(wait.component))
		}
	}
	return <-imported
}

func (c *Cluster) nodeReady(ctx context.Context) error {
	type condition struct{ Type, Status, Message string }
	var node struct {
		Status struct{ Conditions []condition }
	}
	if err := c.api.get(ctx, "/api/v1/nodes/"+NodeName, &node); err != nil {
		return err
	}
	i := slices.IndexFunc(node.Status.Conditions, func(c condition) bool { return c.Type == "Ready" })
	if i < 0 {
		return errors.New("the node has not reported yet")
	}
	if ready := node.Status.Conditions[i]; ready.Status != "True" {
		return errors.New(ready.Message)
	}
	return nil
}

// importBaseImages gives containerd the images that every cluster has, as soon as it listens.
func (c *Cluster) importBaseImages(ctx context.Context) error {
	archives, err := c.writeImages(ctx)
	if err != nil {
		return fmt.Errorf("write images: %w", err)
	}
	err = poll(ctx, func(ctx context.Context) error {
		// A directory's entry comes a moment before the server listens on it.
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.containerdSocket())
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for containerd: %w; the end of its log:\n%s", err, c.tail("containerd"))
	}
	for _, archive := range archives {
		if err := c.ImportImage(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// containerdSocket is containerd's socket as seen from outside the cluster.
func (c *Cluster) containerdSocket() string {
	return filepath.Join("/proc", fmt.Sprint(c.pid), "root", containerdAddress)
}
