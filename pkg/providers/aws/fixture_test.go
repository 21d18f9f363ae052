package aws_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/pkg/secret"
)

// Credentials of a user who may do everything.
const (
	accessKey = "AKIDEXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

// isolate keeps the SDK away from what this machine knows of AWS.
func isolate(t testing.TB) {
	t.Helper()
	s, ok := t.(interface{ Setenv(key, value string) })
	if !ok {
		return
	}
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_ROLE_ARN": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
	} {
		s.Setenv(name, value)
	}
}

// newServer returns a fake AWS with a user who may do everything.
func newServer(t testing.TB) *awstest.Server {
	t.Helper()
	isolate(t)
	server := awstest.NewServer(t)
	server.User("admin", accessKey, secretKey)
	allowAll(server, "admin")
	return server
}

func allowAll(server *awstest.Server, principal string) {
	for _, action := range []string{"secretsmanager:*", "ssm:*"} {
		for _, name := range []string{"*", "*/*"} {
			server.Allow(principal, action, name)
		}
	}
}

// metadata of a store that reads from server as that user, and more.
func metadata(server *awstest.Server, more map[string]string) map[string]string {
	all := map[string]string{
		"region": awstest.Region, "endpoint": server.URL, "stsEndpoint": server.URL, "rolesAnywhereEndpoint": server.URL,
		"accessKey": accessKey, "secretKey": secretKey,
	}
	for name, value := range more {
		all[name] = value
	}
	return all
}

// driver returns the driver of a type, which can't leave this machine.
func driver(t testing.TB, kind string) providers.Driver {
	if kind == aws.ParameterStoreType {
		return aws.ParameterStoreDialing(loopback.Dialer(t))
	}
	return aws.SecretsManagerDialing(loopback.Dialer(t))
}

// config is what a manifest with the metadata gives. The name identity is handled as package stores does.
func config(metadata map[string]string) providers.Config {
	cfg := providers.Config{
		Name: "aws", Logger: slog.New(slog.DiscardHandler), Identity: providers.AsAgent, Properties: providers.Properties{},
	}
	for name, value := range metadata {
		if name == "identity" {
			cfg.Identity = providers.Identity(value)
		} else {
			cfg.Properties[strings.ToLower(name)] = secret.FromString(value)
		}
	}
	return cfg
}

func open(t testing.TB, kind string, cfg providers.Config) providers.Provider {
	t.Helper()
	p, err := driver(t, kind).Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func secrets(t testing.TB, server *awstest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, aws.SecretsManagerType, config(metadata(server, more)))
}

func parameters(t testing.TB, server *awstest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, aws.ParameterStoreType, config(metadata(server, more)))
}

// fetch reads with a deadline and returns the fields in plain.
func fetch(t testing.TB, p providers.Provider, q providers.Query) (map[string]string, providers.Payload, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	payload, err := p.Fetch(ctx, q)
	plain := map[string]string{}
	for name, v := range payload.Fields {
		plain[name] = string(v.Reveal())
	}
	return plain, payload, err
}

// want fails unless q yields one field with the value.
func want(t testing.TB, p providers.Provider, q providers.Query, field, value string) providers.Payload {
	t.Helper()
	got, payload, err := fetch(t, p, q)
	if err != nil || len(got) != 1 || got[field] != value {
		t.Errorf("%s: got %v, %v; want %s=%s", q.Name, got, err, field, value)
	}
	return payload
}

// wantKind fails unless q fails with the kind, without a word of the secret or of AWS.
func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	_, _, err := fetch(t, p, q)
	if providers.KindOf(err) != kind || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v of kind %v, want %v with %q", q.Name, err, providers.KindOf(err), kind, text)
	}
	for _, private := range []string{"c4n4ry", "eyJ", "is not authorized", secretKey} {
		if err != nil && strings.Contains(err.Error(), private) {
			t.Errorf("the error repeats %q: %v", private, err)
		}
	}
}

// together reads names at the same time and returns what failed.
func together(t testing.TB, p providers.Provider, names ...string) map[string]error {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	failed := map[string]error{}
	for _, name := range names {
		all.Go(func() {
			got, _, err := fetch(t, p, providers.Query{Name: name})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[name] = err
			} else if len(got) != 1 {
				t.Errorf("%s: fields %v", name, got)
			}
		})
	}
	all.Wait()
	return failed
}

// accounts is the annotations of service accounts: "namespace/name" → role.
type accounts map[string]string

func (a accounts) Annotations(_ context.Context, namespace, name string) (map[string]string, error) {
	return map[string]string{"eks.amazonaws.com/role-arn": a[namespace+"/"+name]}, nil
}

// as returns a query by a pod of a service account in namespace shop.
func as(server *awstest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, "sts.amazonaws.com")
}

func subject(account string) string { return issuertest.Subject("shop", account) }
