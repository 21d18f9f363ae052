package aws_test

import (
	"sync"
	"testing"

	"github.com/keywell/keywell/internal/loopback"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
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
		server.Allow(principal, action, "*")
	}
}

// metadata of a store that reads from server as that user, and more.
func metadata(server *awstest.Server, more map[string]string) map[string]string {
	return storetest.With(map[string]string{
		"region": awstest.Region, "endpoint": server.URL, "stsEndpoint": server.URL, "rolesAnywhereEndpoint": server.URL,
		"accessKey": accessKey, "secretKey": secretKey,
	}, more)
}

// driver returns the driver of a type, which can't leave this machine.
func driver(t testing.TB, kind string) providers.Driver {
	if kind == aws.ParameterStoreType {
		return aws.ParameterStoreDialing(loopback.Dialer(t))
	}
	return aws.SecretsManagerDialing(loopback.Dialer(t))
}

func open(t testing.TB, kind string, cfg providers.Config) providers.Provider {
	t.Helper()
	return storetest.Open(t, driver(t, kind), cfg)
}

func secrets(t testing.TB, server *awstest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, aws.SecretsManagerType, storetest.Config(metadata(server, more)))
}

func parameters(t testing.TB, server *awstest.Server, more map[string]string) providers.Provider {
	t.Helper()
	return open(t, aws.ParameterStoreType, storetest.Config(metadata(server, more)))
}

// want fails unless q yields one field with the value.
func want(t testing.TB, p providers.Provider, q providers.Query, field, value string) providers.Payload {
	t.Helper()
	got, payload, err := storetest.Fetch(t, p, q)
	if err != nil || len(got) != 1 || got[field] != value {
		t.Errorf("%s: got %v, %v; want %s=%s", q.Name, got, err, field, value)
	}
	return payload
}

// wantKind fails unless q fails with the kind, without a word of the secret or of AWS.
func wantKind(t testing.TB, p providers.Provider, q providers.Query, kind providers.Kind, text string) {
	t.Helper()
	storetest.WantKind(t, p, q, kind, text, "is not authorized", secretKey)
}

// together reads names at the same time and returns what failed.
func together(t testing.TB, p providers.Provider, names ...string) map[string]error {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	failed := map[string]error{}
	for _, name := range names {
		all.Go(func() {
			got, _, err := storetest.Fetch(t, p, providers.Query{Name: name})
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

// as returns a query by a pod of a service account in namespace shop.
func as(server *awstest.Server, account, name string) providers.Query {
	return server.Issuer.Query(name, "shop", account, audience)
}

const audience = "sts.amazonaws.com"
