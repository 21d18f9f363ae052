package gcp_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/gcp"
	"github.com/keywell/keywell/pkg/providers/gcp/gcptest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			server, key := newServer(t)
			cfg := storetest.Config(metadata(server, key, nil))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, cfg),
				Put:      func(name string, fields map[string]string) string { return server.Put(name, fields[name]) },
				Delete:   server.Delete,
				Faults:   faults(server),
				Hang:     server.Hang,
			}
		},
		Binary:         true,
		Lists:          true,
		PageSize:       500,
		Compares:       true,
		UnknownVersion: "1000",
		RetryAfter:     3 * time.Second,
	})
}

func faults(server *gcptest.Server) map[providers.Kind]func(string) {
	all := map[providers.Kind]func(string){}
	throttled, err := status.New(codes.ResourceExhausted, "c4n4ry").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
	if err != nil {
		panic(err)
	}
	for kind, st := range map[providers.Kind]*status.Status{
		providers.NotFound:    status.New(codes.NotFound, "c4n4ry"),
		providers.Denied:      status.New(codes.PermissionDenied, "c4n4ry"),
		providers.Invalid:     status.New(codes.InvalidArgument, "c4n4ry"),
		providers.Unavailable: status.New(codes.Unavailable, "c4n4ry"),
		providers.Throttled:   throttled,
	} {
		all[kind] = func(name string) {
			server.Fail(func(c servertest.Call) error {
				if c.Name == name {
					return st.Err()
				}
				return nil
			})
		}
	}
	return all
}

func TestManifest(t *testing.T) {
	server, key := newServer(t)
	server.Put("db", "c4n4ry")
	snake := map[string]string{
		"project_id": gcptest.Project, "endpoint": server.URL, "type": "service_account", "private_key_id": "1",
		"private_key": strings.ReplaceAll(key, "\n", `\n`), "client_email": admin, "client_id": "2", "auth_uri": "https://a", "token_uri": server.Login + "/token",
		"auth_provider_x509_cert_url": "https://b", "client_x509_cert_url": "https://c",
	}
	want(t, open(t, storetest.Config(snake)), providers.Query{Name: "db"}, "c4n4ry")
	p := open(t, storetest.Config(metadata(server, key, nil)))
	for range 3 {
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	}
	if n := len(server.Calls("assertion")); n != 2 {
		t.Errorf("%d logins for two stores", n)
	}
	wrong := storetest.Config(metadata(server, key, map[string]string{"clientEmail": "nobody@x"}))
	wantKind(t, open(t, wrong), providers.Query{Name: "db"}, providers.Denied, "Google refuses it (400)")
}

func TestManifestIsRefused(t *testing.T) {
	key := map[string]string{"projectID": "p", "privateKeyID": "1", "type": "service_account", "privateKey": "c4n4ry", "clientEmail": "e"}
	with := func(name, value string) map[string]string {
		m := map[string]string{name: value}
		for n, v := range key {
			if n != name {
				m[n] = v
			}
		}
		return m
	}
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"no project":       {nil, `"projectID" is required`},
		"project":          {map[string]string{"projectID": "a/b"}, `"projectID" is not an id`},
		"location":         {map[string]string{"projectID": "p", "location": "a/b"}, `"location" is not an id`},
		"no type":          {with("type", ""), `"type" is required`},
		"other type":       {with("type", "external_account"), `"type" is not service_account`},
		"no key":           {with("privateKey", ""), `"private_key" is required`},
		"no key at all":    {key, `"privateKey" is not a private key`},
		"endpoint":         {with("endpoint", "http://x"), `"endpoint" is not a URL`},
		"pod with key":     {with("identity", "pod"), "leave out privateKeyID"},
		"pod, no provider": {map[string]string{"projectID": "p", "identity": "pod"}, `"workloadIdentityProvider" is required`},
		"pod, provider":    {map[string]string{"projectID": "p", "identity": "pod", "workloadIdentityProvider": "x"}, `"workloadIdentityProvider"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gcp.Driver().Open(t.Context(), storetest.Config(tt.metadata))
			if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want Invalid with %q", err, tt.text)
			}
		})
	}
}

// TestDefaultCredentials reads with what the metadata server gives.
func TestDefaultCredentials(t *testing.T) {
	server, _ := newServer(t)
	server.Put("db", "c4n4ry")
	server.NodeIdentity(admin)
	t.Setenv("GCE_METADATA_HOST", server.Metadata)
	p := open(t, storetest.Config(map[string]string{"projectID": gcptest.Project, "endpoint": server.URL}))
	for range 2 {
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	}
	if n := len(server.Calls("metadata")); n != 1 {
		t.Errorf("%d tokens for two reads", n)
	}
}

func TestVersions(t *testing.T) {
	server, p := newStore(t, nil)
	first := server.Put("db", "c4n4ry-1")
	server.Alias("db", "blue")
	server.Put("db", "c4n4ry-2")
	want(t, p, providers.Query{Name: "db", Version: first}, "c4n4ry-1")
	if payload := want(t, p, providers.Query{Name: "db", Version: "blue"}, "c4n4ry-1"); payload.Version != first {
		t.Errorf("version %q, want %q", payload.Version, first)
	}
	want(t, p, providers.Query{Name: "db", Version: "latest"}, "c4n4ry-2")
	server.SetState("db", secretmanagerpb.SecretVersion_DISABLED)
	wantKind(t, p, providers.Query{Name: "db"}, providers.NotFound, "disabled or destroyed")
	wantKind(t, p, providers.Query{Name: "db", Known: "2"}, providers.NotFound, "disabled or destroyed")
	wantKind(t, p, providers.Query{Name: "db", Version: "../2"}, providers.Invalid, "number or alias")
	wantKind(t, p, providers.Query{Name: "projects/x/secrets/db"}, providers.Invalid, "")
}

func TestChecksum(t *testing.T) {
	server, p := newStore(t, nil)
	server.Put("db", "c4n4ry")
	server.Corrupt()
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "CRC32C")
}

// TestUnchangedIsNotAccessed counts what a refresh costs, with the right to ask for versions and without.
func TestUnchangedIsNotAccessed(t *testing.T) {
	server, p := newStore(t, nil)
	version := server.Put("db", "c4n4ry")
	if _, payload, err := storetest.Fetch(t, p, providers.Query{Name: "db", Known: version}); err != nil || !payload.Unchanged {
		t.Errorf("got %+v, %v", payload, err)
	}
	if n := len(server.Calls("AccessSecretVersion")); n != 0 {
		t.Errorf("the value was accessed %d times", n)
	}
	const reader = "reader@my-project.iam.gserviceaccount.com"
	key := server.Key(t, reader)
	server.Allow(reader, "AccessSecretVersion", "db")
	limited := open(t, storetest.Config(metadata(server, key, map[string]string{"clientEmail": reader})))
	for range 3 {
		want(t, limited, providers.Query{Name: "db", Known: version}, "c4n4ry")
	}
	if n := len(server.Calls("GetSecretVersion")); n != 2 {
		t.Errorf("%d calls of GetSecretVersion, of which one is refused; want 2", n)
	}
}

// TestBulkNames: short names, by which scopes know the secrets, or Dapr's full ones.
func TestBulkNames(t *testing.T) {
	server, key := newServer(t)
	server.Put("db", "c4n4ry")
	for full, name := range map[string]string{"false": "db", "true": "projects/my-project/secrets/db"} {
		p := open(t, storetest.Config(metadata(server, key, map[string]string{"bulkFullNames": full})))
		names, err := p.(providers.Lister).List(t.Context(), providers.Query{})
		if diff := cmp.Diff([]string{name}, names); err != nil || diff != "" {
			t.Fatalf("error %v, mismatch (-want +got):\n%s", err, diff)
		}
		want(t, p, providers.Query{Name: name}, "c4n4ry")
		want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	}
}

func TestRegion(t *testing.T) {
	server := gcptest.NewRegion(t, "europe-west1")
	server.Allow(admin, "*", "*")
	key := server.Key(t, admin)
	server.Put("db", "c4n4ry")
	p := open(t, storetest.Config(metadata(server, key, map[string]string{"location": "europe-west1"})))
	want(t, p, providers.Query{Name: "db"}, "c4n4ry")
	if names, err := p.(providers.Lister).List(t.Context(), providers.Query{}); err != nil || !slices.Equal(names, []string{"db"}) {
		t.Errorf("List = %v, %v", names, err)
	}
	for location, address := range map[string]string{"": "secretmanager.googleapis.com:443", "europe-west1": "secretmanager.europe-west1.rep.googleapis.com:443"} {
		asked := make(chan string, 16)
		here := loopback.Dialer(t)
		driver := gcp.DriverDialing(func(ctx context.Context, network, to string) (net.Conn, error) {
			if strings.HasPrefix(to, "127.0.0.1:") {
				return here(ctx, network, to)
			}
			asked <- to
			return nil, errors.New("not from a test")
		})
		p, err := driver.Open(t.Context(), storetest.Config(metadata(server, key, map[string]string{"location": location, "endpoint": ""})))
		if err != nil {
			t.Fatal(err)
		}
		wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "")
		_ = p.Close()
		if got := <-asked; got != address {
			t.Errorf("dialed %s, want %s", got, address)
		}
	}
}
