package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/secretstores"
	"github.com/dapr/dapr/pkg/components/pluggable"
	daprd "github.com/dapr/dapr/pkg/components/secretstores"
)

// readAsDaprd finds the pluggable components in a folder, makes one of them the store of a component and prints a secret,
// all with daprd's own code.
func readAsDaprd(ctx context.Context, folder, component, secret, namespace string) error {
	if err := os.Setenv(pluggable.SocketFolderEnvVar, folder); err != nil {
		return err
	}
	if err := pluggable.Discover(ctx); err != nil {
		return err
	}
	store, err := daprd.DefaultRegistry.Create("secretstores.keywell", "v1", component)
	if err != nil {
		return err
	}
	if err := store.Init(ctx, secretstores.Metadata{Base: metadata.Base{Name: component}}); err != nil {
		return err
	}
	request := secretstores.GetSecretRequest{Name: secret}
	if namespace != "" {
		request.Metadata = map[string]string{"namespace": namespace}
	}
	got, err := store.GetSecret(ctx, request)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got.Data)
}
