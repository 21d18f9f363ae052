package sdk_test

import (
	"context"
	"errors"
	"testing"
	"time"

	dapr "github.com/dapr/go-sdk/client"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestGoSDK calls everything of the secrets API that the SDK offers, configured as an application would be: by the
// environment alone.
func TestGoSDK(t *testing.T) {
	a := start(t)
	t.Setenv("DAPR_GRPC_ENDPOINT", a.grpc)
	t.Setenv("DAPR_API_TOKEN", token)
	client, err := dapr.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	t.Run("wait", func(t *testing.T) {
		if err := client.Wait(ctx, 5*time.Second); err != nil {
			t.Error(err)
		}
	})
	t.Run("get", func(t *testing.T) {
		for _, c := range []struct {
			store, key string
			want       map[string]string
		}{
			{"single", "plain", map[string]string{"plain": "s3cret"}},
			{"single", "with/slash", map[string]string{"with/slash": "slashed"}},
			{"single", "nested:a:b", map[string]string{"nested:a:b": "deep"}},
			{"single", "unicode", map[string]string{"unicode": "grüß <&>"}},
			{"multi", "db", map[string]string{"user": "u", "password": "p"}},
			{"environment", "GREETING", map[string]string{"GREETING": "hello"}},
			{"environment", "MISSING", map[string]string{"MISSING": ""}},
		} {
			got, err := client.GetSecret(ctx, c.store, c.key, nil)
			if err != nil {
				t.Errorf("%s %s: %v", c.store, c.key, err)
				continue
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", c.store, c.key, diff)
			}
		}
	})
	t.Run("bulk leaves out what the scope denies", func(t *testing.T) {
		got, err := client.GetBulkSecret(ctx, "single", nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]map[string]string{
			"plain": {"plain": "s3cret"}, "with/slash": {"with/slash": "slashed"},
			"nested:a:b": {"nested:a:b": "deep"}, "unicode": {"unicode": "grüß <&>"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, c := range []struct {
			store, key string
			code       codes.Code
			message    string
			reason     string
		}{
			{"single", "missing", codes.Internal, "failed getting secret with key missing from secret store single: secret missing not found", "SECRET_NOT_FOUND"},
			{"single", "forbidden", codes.PermissionDenied, `access denied by policy to get "forbidden" from "single"`, "SECRET_DENIED"},
			{"nowhere", "x", codes.InvalidArgument, "failed finding secret store with key nowhere", "STORE_NOT_FOUND"},
		} {
			_, err := client.GetSecret(ctx, c.store, c.key, nil)
			wrapped, ok := errors.AsType[interface {
				error
				GRPCStatus() *status.Status
			}](err) // the SDK puts its own words around what the server said
			if !ok {
				t.Errorf("%s %s: %v is not a gRPC error", c.store, c.key, err)
				continue
			}
			s := wrapped.GRPCStatus()
			if s.Code() != c.code || s.Message() != c.message {
				t.Errorf("%s %s: %s %q, want %s %q", c.store, c.key, s.Code(), s.Message(), c.code, c.message)
			}
			if got := reason(s); got != c.reason {
				t.Errorf("%s %s: reason %q, want %q", c.store, c.key, got, c.reason)
			}
		}
	})
	t.Run("metadata", func(t *testing.T) {
		if err := client.SetMetadata(ctx, "colour", "blue"); err != nil {
			t.Fatal(err)
		}
		m, err := client.GetMetadata(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m.ID != "sdk-test" || m.ExtendedMetadata["colour"] != "blue" {
			t.Errorf("id %q, extended %v", m.ID, m.ExtendedMetadata)
		}
		types := map[string]string{}
		for _, c := range m.RegisteredComponents {
			types[c.Name] = c.Type
		}
		want := map[string]string{"single": "secretstores.local.file", "multi": "secretstores.local.file", "rotating": "secretstores.local.file", "environment": "secretstores.local.env"}
		if diff := cmp.Diff(want, types); diff != "" {
			t.Errorf("components (-want +got):\n%s", diff)
		}
	})
	t.Run("configuration", func(t *testing.T) { testConfiguration(ctx, t, a, client) })
	t.Run("a wrong token", func(t *testing.T) {
		t.Setenv("DAPR_API_TOKEN", "wrong")
		other, err := dapr.NewClientWithAddress(a.grpc)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := other.GetSecret(ctx, "single", "plain", nil); status.Code(err) != codes.Unauthenticated {
			t.Errorf("error = %v, want Unauthenticated", err)
		}
	})
}

// testConfiguration has the SDK's subscription deliver a rotation.
func testConfiguration(ctx context.Context, t *testing.T, a *agent, client dapr.Client) {
	const db1, db2 = `{"password":"1","user":"u"}`, `{"password":"2","user":"u"}`
	items, err := client.GetConfigurationItems(ctx, "rotating", []string{"password", "db", "missing"})
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != 2 || items["password"].Value != "1" || items["db"].Value != db1 {
		t.Errorf("items: %v", items)
	}
	updates := make(chan map[string]*dapr.ConfigurationItem, 10)
	id, err := client.SubscribeConfigurationItems(ctx, "rotating", []string{"password", "db"}, func(_ string, items map[string]*dapr.ConfigurationItem) {
		updates <- items
	})
	if err != nil {
		t.Fatal(err)
	}
	a.rotate(t, "2")
	got := map[string]string{}
	for len(got) < 2 {
		select {
		case items := <-updates:
			for name, it := range items {
				got[name] = it.Value
			}
		case <-ctx.Done():
			t.Fatalf("only %v came", got)
		}
	}
	if diff := cmp.Diff(map[string]string{"password": "2", "db": db2}, got); diff != "" {
		t.Errorf("updates (-want +got):\n%s", diff)
	}
	if err := client.UnsubscribeConfigurationItems(ctx, "rotating", id); err != nil {
		t.Error(err)
	}
}

// reason returns the reason of the status's ErrorInfo, or "".
func reason(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}
