package sdk_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/secretstores"
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
