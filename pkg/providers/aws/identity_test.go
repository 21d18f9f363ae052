package aws_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
)

// newPods returns a fake in which the service accounts alice and bob have a role each, which may read one secret.
func newPods(t *testing.T) (*awstest.Server, accounts) {
	t.Helper()
	server := newServer(t)
	roles := accounts{}
	for _, account := range []string{"alice", "bob"} {
		role := server.Role(account, subject(account))
		roles["shop/"+account] = role
		for _, action := range []string{"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "ssm:GetParameter"} {
			server.Allow(role, action, "of-"+account)
		}
		server.PutSecret("of-"+account, "c4n4ry-"+account, false)
		server.PutParameter("of-"+account, "SecureString", "c4n4ry-"+account)
	}
	return server, roles
}

// openAsPod opens a store that is read as the pod.
func openAsPod(t *testing.T, kind string, server *awstest.Server, roles providers.ServiceAccounts, more map[string]string) providers.Provider {
	t.Helper()
	m := map[string]string{"region": awstest.Region, "endpoint": server.URL, "stsEndpoint": server.URL, "identity": "pod"}
	for name, value := range more {
		m[name] = value
	}
	cfg := config(m)
	cfg.ServiceAccounts = roles
	return open(t, kind, cfg)
}

// TestEachPodIsItself: two pods, two roles, and never each other's secret.
func TestEachPodIsItself(t *testing.T) {
	for _, kind := range []string{aws.SecretsManagerType, aws.ParameterStoreType} {
		t.Run(kind, func(t *testing.T) {
			server, roles := newPods(t)
			p := openAsPod(t, kind, server, roles, nil)
			for range 2 {
				want(t, p, as(server, "alice", "of-alice"), "of-alice", "c4n4ry-alice")
				want(t, p, as(server, "bob", "of-bob"), "of-bob", "c4n4ry-bob")
				wantKind(t, p, as(server, "alice", "of-bob"), providers.Denied, "AccessDeniedException")
				wantKind(t, p, as(server, "bob", "of-alice"), providers.Denied, "AccessDeniedException")
			}
			_, _, err := fetch(t, p, providers.Query{Name: "of-alice"})
			if !errors.Is(err, providers.ErrNoTokens) {
				t.Errorf("on behalf of nobody: %v", err)
			}
		})
	}
}

// TestOneExchangeForAServiceAccount reads with 20 pods of one service account at once.
func TestOneExchangeForAServiceAccount(t *testing.T) {
	server, roles := newPods(t)
	p := openAsPod(t, aws.SecretsManagerType, server, roles, nil)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			q := as(server, "alice", "of-alice")
			q.Caller.Pod, q.Caller.PodUID = fmt.Sprint("alice-", i), fmt.Sprint("uid-", i)
			want(t, p, q, "of-alice", "c4n4ry-alice")
		})
	}
	all.Wait()
	want(t, p, as(server, "bob", "of-bob"), "of-bob", "c4n4ry-bob")
	if n := len(server.Calls("sts:AssumeRoleWithWebIdentity")); n != 2 {
		t.Errorf("%d exchanges for two service accounts", n)
	}
}

// TestRoles: the annotation decides, then the manifest; without either nothing is asked.
func TestRoles(t *testing.T) {
	server, roles := newPods(t)
	manifest := map[string]string{"assumeRoleArn": roles["shop/alice"]}
	want(t, openAsPod(t, aws.SecretsManagerType, server, nil, manifest), as(server, "alice", "of-alice"), "of-alice", "c4n4ry-alice")
	want(t, openAsPod(t, aws.SecretsManagerType, server, roles, manifest), as(server, "bob", "of-bob"), "of-bob", "c4n4ry-bob")
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, nil, manifest), as(server, "bob", "of-bob"), providers.Denied, "sts:AssumeRoleWithWebIdentity")
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, accounts{}, nil), as(server, "bob", "of-bob"), providers.Denied, "annotate it")
	wantKind(t, openAsPod(t, aws.SecretsManagerType, server, nil, nil), as(server, "bob", "of-bob"), providers.Denied, "assumeRoleArn")
}

// TestSTSDoesNotTakeTheToken shows that a token is neither sent elsewhere nor repeated.
func TestSTSDoesNotTakeTheToken(t *testing.T) {
	server, roles := newPods(t)
	other := awstest.NewServer(t) // whose issuer is not trusted
	p := openAsPod(t, aws.SecretsManagerType, server, roles, nil)
	wantKind(t, p, as(other, "alice", "of-alice"), providers.Denied, "InvalidIdentityToken")
	q := server.Issuer.Query("of-alice", "shop", "alice", "vault")
	wantKind(t, p, q, providers.Invalid, `no token for audience "sts.amazonaws.com"`)
}

// TestPodsThroughTheCache reads through the resolver, whose cache must not lend one pod's answers to the other.
func TestPodsThroughTheCache(t *testing.T) {
	server, roles := newPods(t)
	r := newResolver(t, openAsPod(t, aws.SecretsManagerType, server, roles, nil), resolve.Settings{PerIdentity: true})
	read := func(account, name string) (resolve.Result, error) {
		q := as(server, account, name)
		return resolveAs(t, r, scope.Identity{Namespace: "shop", ServiceAccount: account, Pod: q.Caller.Pod, PodUID: q.Caller.PodUID}, name, q.Tokens)
	}
	for range 3 {
		for _, account := range []string{"alice", "bob"} {
			if res, err := read(account, "of-"+account); err != nil || string(res.Fields["of-"+account].Reveal()) != "c4n4ry-"+account {
				t.Errorf("%s: %v", account, err)
			}
		}
		if _, err := read("bob", "of-alice"); providers.KindOf(err) != providers.Denied {
			t.Errorf("bob read alice's secret, or: %v", err)
		}
	}
	if n := len(server.Calls("secretsmanager:GetSecretValue")); n != 3 {
		t.Errorf("%d reads, want one of each secret and one refused", n)
	}
}

// TestExpiredSession: credentials that AWS calls expired are replaced before the resolver's retry.
func TestExpiredSession(t *testing.T) {
	server, roles := newPods(t)
	r := newResolver(t, openAsPod(t, aws.SecretsManagerType, server, roles, nil), resolve.Settings{PerIdentity: true, CacheTTL: 1})
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
