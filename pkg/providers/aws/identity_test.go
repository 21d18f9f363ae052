package aws_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// newPods returns a fake in which the service accounts alice and bob have a role each, which may read one secret.
func newPods(t *testing.T) (*awstest.Server, storetest.Accounts) {
	t.Helper()
	server := newServer(t)
	accounts := storetest.Accounts{}
	for _, account := range []string{"alice", "bob"} {
		role := server.Role(account, storetest.Subject(account))
		accounts["shop/"+account] = map[string]string{"eks.amazonaws.com/role-arn": role}
		for _, action := range []string{"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "ssm:GetParameter"} {
			server.Allow(role, action, "of-"+account)
		}
		server.PutSecret("of-"+account, "c4n4ry-"+account, false)
		server.PutParameter("of-"+account, "SecureString", "c4n4ry-"+account)
	}
	return server, accounts
}

// openAsPod opens a store that is read as the pod.
func openAsPod(t *testing.T, kind string, server *awstest.Server, accounts providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	cfg := storetest.Config(storetest.With(map[string]string{
		"region": awstest.Region, "endpoint": server.URL, "stsEndpoint": server.URL, "identity": "pod",
	}, more))
	cfg.ServiceAccounts = accounts
	return open(t, kind, cfg)
}

func TestPods(t *testing.T) {
	for kind, read := range map[string]string{aws.SecretsManagerType: "secretsmanager:GetSecretValue", aws.ParameterStoreType: "ssm:GetParameter"} {
		t.Run(kind, func(t *testing.T) {
			storetest.RunPods(t, func(t *testing.T) storetest.Pods {
				server, accounts := newPods(t)
				return storetest.Pods{
					Provider: openAsPod(t, kind, server, accounts, nil), Issuer: server.Issuer, Audience: audience,
					Denied:    "AccessDeniedException",
					Exchanges: func() int { return len(server.Calls("sts:AssumeRoleWithWebIdentity")) },
					Reads:     func() int { return len(server.Calls(read)) },
					Revoke:    server.ExpireSessions, Revoked: providers.Unavailable, Says: "ExpiredToken",
				}
			})
		})
	}
}

// TestRoles: the annotation decides, then the manifest; without either nothing is asked.
func TestRoles(t *testing.T) {
	server, accounts := newPods(t)
	manifest := map[string]string{"assumeRoleArn": accounts["shop/alice"]["eks.amazonaws.com/role-arn"]}
	want(t, openAsPod(t, aws.SecretsManagerType, server, nil, manifest), as(server, "alice", "of-alice"), "of-alice", "c4n4ry-alice")
	want(t, openAsPod(t, aws.SecretsManagerType, server, accounts, manifest), as(server, "bob", "of-bob"), "of-bob", "c4n4ry-bob")
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, nil, manifest), as(server, "bob", "of-bob"), providers.Denied, "sts:AssumeRoleWithWebIdentity")
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, storetest.Accounts{}, nil), as(server, "bob", "of-bob"), providers.Denied, "annotate it")
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, nil, nil), as(server, "bob", "of-bob"), providers.Denied, "assumeRoleArn")
}

// TestSTSDoesNotTakeTheToken shows that a token is neither sent elsewhere nor repeated.
func TestSTSDoesNotTakeTheToken(t *testing.T) {
	server, accounts := newPods(t)
	other := awstest.NewServer(t) // whose issuer is not trusted
	p := openAsPod(t, aws.SecretsManagerType, server, accounts, nil)
	wantKind(t, p, as(other, "alice", "of-alice"), providers.Denied, "InvalidIdentityToken")
}

// TestExpiredSession: credentials that AWS calls expired are replaced before the resolver's retry.
func TestExpiredSession(t *testing.T) {
	server, accounts := newPods(t)
	r := newResolver(t, openAsPod(t, aws.SecretsManagerType, server, accounts, nil), resolve.Settings{PerIdentity: true, CacheTTL: 1})
	id := scope.Identity{Namespace: "shop", ServiceAccount: "alice", Pod: "alice-1"}
	for range 2 {
		if _, err := resolveAs(t, r, id, "of-alice", as(server, "alice", "").Tokens); err != nil {
			t.Error(err)
		}
		server.ExpireSessions()
	}
	if n := len(server.Calls("sts:AssumeRoleWithWebIdentity")); n != 2 {
		t.Errorf("%d exchanges, want 2", n)
	}
}

// TestClockSkew: the SDK learns the server's clock from a refusal, and the resolver's retry succeeds.
func TestClockSkew(t *testing.T) {
	for _, skew := range []time.Duration{time.Hour, -time.Hour} {
		server := newServer(t)
		server.PutSecret("db", "c4n4ry", false)
		server.Skew(skew)
		r := newResolver(t, secrets(t, server, nil), resolve.Settings{})
		if _, err := resolveAs(t, r, scope.Identity{}, "db", nil); err != nil {
			t.Errorf("skew of %v: %v", skew, err)
		}
	}
}

func TestAssumeRole(t *testing.T) {
	server := newServer(t)
	server.PutSecret("db", "c4n4ry", false)
	role := server.Role("reader", "limited")
	server.Allow(role, "secretsmanager:*", "db")
	server.User("limited", "AKIDLIMITED", "s")
	keys := map[string]string{"accessKey": "AKIDLIMITED", "secretKey": "s"}
	wantKind(t, secrets(t, server, keys), providers.Query{Name: "db"}, providers.Denied, "AccessDeniedException")
	keys["assumeRoleArn"] = role
	p := secrets(t, server, keys)
	for range 3 {
		want(t, p, providers.Query{Name: "db"}, "db", "c4n4ry")
	}
	if n := len(server.Calls("sts:AssumeRole")); n != 1 {
		t.Errorf("the role was assumed %d times", n)
	}
	keys["assumeRoleArn"] = server.Role("other", "somebody")
	wantKind(t, secrets(t, server, keys), providers.Query{Name: "db"}, providers.Denied, "AccessDenied")
}

func TestFailover(t *testing.T) {
	server := newServer(t)
	second := awstest.NewRegion(t, "us-east-1")
	second.User("admin", accessKey, secretKey)
	allowAll(second, "admin")
	for _, s := range []*awstest.Server{server, second} {
		s.PutSecret("db", "c4n4ry", false)
		s.PutParameter("db", "SecureString", "c4n4ry")
	}
	second.PutSecret("only-there", "c4n4ry", false)
	more := map[string]string{"failoverRegion": "us-east-1", "failoverEndpoint": second.URL}
	for _, p := range []providers.Provider{secrets(t, server, more), parameters(t, server, more)} {
		want(t, p, providers.Query{Name: "db"}, "db", "c4n4ry")
		if n := len(second.Calls("")); n != 0 {
			t.Errorf("%d calls to the other region of a store that works", n)
		}
	}
	wantKind(t, secrets(t, server, more), providers.Query{Name: "only-there"}, providers.NotFound, "")
	for name, f := range map[string]awstest.Fault{"breaks": {}, "hangs": {Hang: true}, "throttles": {Code: "ThrottlingException"}, "down": {Code: "x", Status: 503}} {
		server.Fail(func(awstest.Call) *awstest.Fault { return &f })
		for _, p := range []providers.Provider{secrets(t, server, more), parameters(t, server, more)} {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			if _, err := p.Fetch(ctx, providers.Query{Name: "db"}); err != nil {
				t.Errorf("first region %s: %v", name, err)
			}
			cancel()
		}
	}
}

// TestRolesAnywhere reads with a session for a certificate.
func TestRolesAnywhere(t *testing.T) {
	server := newServer(t)
	server.PutSecret("db", "c4n4ry", false)
	dir := t.TempDir()
	ca := writeCertificate(t, dir, "agent")
	anchor, profile := server.TrustAnchor(ca)
	role := server.Role("reader", "agent")
	server.Allow(role, "secretsmanager:*", "db")
	m := map[string]string{
		"accessKey": "", "secretKey": "", "trustAnchorArn": anchor, "trustProfileArn": profile, "assumeRoleArn": role,
		"certificateFile": filepath.Join(dir, "crt"), "privateKeyFile": filepath.Join(dir, "key"),
	}
	p := secrets(t, server, m)
	for range 2 {
		want(t, p, providers.Query{Name: "db"}, "db", "c4n4ry")
	}
	if n := len(server.Calls("rolesanywhere:CreateSession")); n != 1 {
		t.Errorf("%d sessions", n)
	}
	m["assumeRoleArn"] = server.Role("other", "somebody")
	wantKind(t, secrets(t, server, m), providers.Query{Name: "db"}, providers.Denied, "trust anchor")
	m["certificateFile"] = filepath.Join(dir, "none")
	wantKind(t, secrets(t, server, m), providers.Query{Name: "db"}, providers.Invalid, "certificate for IAM Roles Anywhere")
}

// writeCertificate writes a certificate with its key and returns the CA that signed it.
func writeCertificate(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	issue := func(serial int64, cn string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour),
			IsCA: parent == nil, BasicConstraintsValid: true,
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate, key
	}
	ca, caKey := issue(1, "ca", nil, nil)
	leaf, key := issue(4711, name, ca, caKey)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"crt": {Type: "CERTIFICATE", Bytes: leaf.Raw}, "key": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca
}

func newResolver(t *testing.T, p providers.Provider, settings resolve.Settings) *resolve.Resolver {
	t.Helper()
	r := resolve.New(resolve.Options{})
	t.Cleanup(r.Close)
	r.Install(resolve.Store{Name: "aws", Provider: p, Settings: settings})
	return r
}

// resolveAs reads as a pod that every policy allows.
func resolveAs(t *testing.T, r *resolve.Resolver, id scope.Identity, name string, tokens providers.TokenSource) (resolve.Result, error) {
	t.Helper()
	policy, err := scope.NewPolicy(scope.Rules{Stores: []scope.Store{{Name: "aws"}}})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := policy.Authorize(id, scope.Ref{Store: "aws", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return r.Resolve(t.Context(), resolve.Request{Grant: grant, Tokens: tokens, Origin: "api"})
}
