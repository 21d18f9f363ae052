package sdk_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/secretstores"
	"github.com/dapr/dapr/pkg/components/pluggable"
	daprd "github.com/dapr/dapr/pkg/components/secretstores"
	"github.com/dapr/kit/logger"
	"github.com/google/go-cmp/cmp"
)

// TestDaprd uses the agent as a pluggable secret store by daprd's own code for these.
func TestDaprd(t *testing.T) {
	a := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	open := func(component string) (secretstores.SecretStore, error) {
		s := daprd.NewGRPCSecretStore(logger.NewLogger("test"), filepath.Join(a.dir, "keywell.sock"))
		return s, s.Init(ctx, secretstores.Metadata{Base: metadata.Base{Name: component, Properties: map[string]string{"any": "x"}}})
	}
	store, err := open("multi")
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.GetSecret(ctx, secretstores.GetSecretRequest{Name: "db"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"user": "u", "password": "p"}, got.Data); diff != "" {
		t.Errorf("db (-want +got):\n%s", diff)
	}
	if !secretstores.FeatureMultipleKeyValuesPerSecret.IsPresent(store.Features()) {
		t.Errorf("features: %v", store.Features())
	}
	single, err := open("single")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := single.GetSecret(ctx, secretstores.GetSecretRequest{Name: "forbidden"}); err == nil {
		t.Error("a denied secret is told")
	}
	all, err := single.BulkGetSecret(ctx, secretstores.BulkGetSecretRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, told := all.Data["forbidden"]; told || all.Data["plain"]["plain"] != "s3cret" {
		t.Errorf("all secrets: %v", all.Data)
	}
	if _, err := open("nowhere"); err == nil {
		t.Error("a component without a store opens")
	}
}

// TestDaprdByVolume has a daprd find the socket in a pod's volume as it finds all of its plugins, with a component of that
// type, and read on when the agent was killed, although it initialises a component once.
func TestDaprdByVolume(t *testing.T) {
	a := prepare(t)
	target, flags := mountForDaprd(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	t.Setenv(pluggable.SocketFolderEnvVar, target+"/dapr-components")
	if err := pluggable.Discover(ctx); err != nil {
		t.Fatal(err)
	}
	store, err := daprd.DefaultRegistry.Create("secretstores.keywell", "v1", "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Init(ctx, secretstores.Metadata{Base: metadata.Base{Name: "multi"}}); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		got, err := store.GetSecret(ctx, secretstores.GetSecretRequest{Name: "db"})
		if err == nil && got.Data["password"] != "p" {
			err = errors.New("it reads something else")
		}
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	a.kill(t)
	if err := read(); err == nil {
		t.Fatal("there is no agent, and daprd has an answer")
	}
	a.run(t, flags...)
	eventually(t, read)
}
