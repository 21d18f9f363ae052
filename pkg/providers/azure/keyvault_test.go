package azure_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/servertest"
	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/azure"
	"github.com/keywell/keywell/pkg/providers/azure/azuretest"
)

func TestManifestIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"no vault":           {nil, `"vaultName"`},
		"vault's name":       {map[string]string{"vaultName": "a/b"}, `"vaultName"`},
		"address elsewhere":  {map[string]string{"vaultName": "https://kv.vault.example.com"}, `"vaultName"`},
		"URL":                {map[string]string{"vaultURL": "http://kv"}, `"vaultURL"`},
		"environment":        {map[string]string{"vaultName": "kv1", "azureCloud": "Mars"}, `"azureEnvironment"`},
		"authority":          {map[string]string{"vaultName": "kv1", "azureAuthorityHost": "login"}, `"azureAuthorityHost"`},
		"method":             {map[string]string{"vaultName": "kv1", "azureADAuthMethods": "creds,magic"}, "unknown method"},
		"no method":          {map[string]string{"vaultName": "kv1", "entraIDAuthMethods": "none"}, "no way to authenticate"},
		"SPIFFE":             {map[string]string{"vaultName": "kv1", "azureAuthMethods": "spiffe"}, "identity: pod"},
		"nothing to log in":  {map[string]string{"vaultName": "kv1", "azureAuthMethods": "creds,cert,wi"}, "no way to authenticate"},
		"certificate":        {map[string]string{"vaultName": "kv1", "azureAuthMethods": "cert", "azureTenantId": "t", "azureClientId": "c", "azureCertificate": "c4n4ry"}, "clientcertificate can't be used"},
		"certificate's file": {map[string]string{"vaultName": "kv1", "azureAuthMethods": "cert", "azureTenantId": "t", "azureClientId": "c", "azureCertificateFile": "/nonexistent"}, "clientcertificate can't be used"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := azure.Driver().Open(t.Context(), storetest.Config(tt.metadata))
			if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want Invalid with %q", err, tt.text)
			}
		})
	}
}

// TestAddress: a vault is found by each form of its name, in each cloud, and so is the cloud's login.
func TestAddress(t *testing.T) {
	for name, tt := range map[string]struct {
		metadata     map[string]string
		vault, login string // login: where the vault is not asked first
	}{
		"name":          {map[string]string{"vaultName": "kv1"}, "kv1.vault.azure.net:443", ""},
		"full name":     {map[string]string{"vaultName": "kv1.vault.azure.net"}, "kv1.vault.azure.net:443", ""},
		"address":       {map[string]string{"vaultName": "https://kv1.vault.azure.cn/"}, "kv1.vault.azure.cn:443", "login.chinacloudapi.cn:443"},
		"China":         {map[string]string{"vaultName": "kv1", "azureEnvironment": "AZURECHINACLOUD"}, "kv1.vault.azure.cn:443", "login.chinacloudapi.cn:443"},
		"US government": {map[string]string{"vaultName": "kv1", "azureCloud": "AzureUSGovernment"}, "kv1.vault.usgovcloudapi.net:443", "login.microsoftonline.us:443"},
		"own address":   {map[string]string{"vaultURL": "https://kv.internal:8443"}, "kv.internal:8443", ""},
		"as the pod":    {map[string]string{"vaultName": "kv1", "azureCloud": "AzureChina", "identity": "pod"}, "", "login.chinacloudapi.cn:443"},
	} {
		t.Run(name, func(t *testing.T) {
			server := azuretest.NewServer(t)
			var dialed []string
			m := map[string]string{"azureTenantId": azuretest.Tenant, "azureClientId": admin, "azureClientSecret": "s"}
			for key, value := range tt.metadata {
				m[key] = value
			}
			driver := azure.DriverDialing(func(_ context.Context, _, address string) (net.Conn, error) {
				dialed = append(dialed, address)
				return nil, errors.New("not from a test")
			})
			p, err := driver.Open(t.Context(), storetest.Config(m))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = p.Fetch(t.Context(), as(server, "alice", "db"))
			expected := tt.vault
			if expected == "" {
				expected = tt.login
			}
			if !slices.Contains(dialed, expected) {
				t.Errorf("dialed %v, want %s", dialed, expected)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	server := newServer(t)
	p := vault(t, server, nil)
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	server.Put("db", azuretest.Secret{Value: "c4n4ry-1", Expires: time.Now().Add(-time.Hour)})
	server.Put("db", azuretest.Secret{Value: "c4n4ry-2", Expires: soon})
	if payload := want(t, p, providers.Query{Name: "db"}, "c4n4ry-2"); !payload.NotAfter.Equal(soon) {
		t.Errorf("valid until %v, want %v", payload.NotAfter, soon)
	}
	expired := server.Put("old", azuretest.Secret{Value: "c4n4ry", Expires: time.Now().Add(-time.Hour)})
	if payload := want(t, p, providers.Query{Name: "old", Version: expired}, "c4n4ry"); !payload.NotAfter.IsZero() {
		t.Errorf("an expired secret is served, and valid until %v", payload.NotAfter)
	}
	server.Put("off", azuretest.Secret{Value: "c4n4ry", Disabled: true})
	wantKind(t, p, providers.Query{Name: "off"}, providers.Denied, "disabled")
	for _, version := range []string{"x/y", "../other", "a?b"} {
		wantKind(t, p, providers.Query{Name: "db", Version: version}, providers.Invalid, "neither a name nor a version")
	}
	wantKind(t, p, providers.Query{Name: "db", Stage: "s"}, providers.Invalid, "no stages")
}

func TestList(t *testing.T) {
	server := newServer(t)
	p := vault(t, server, nil)
	var all []string
	for i := range 60 {
		name := fmt.Sprintf("s%02d", i)
		all = append(all, name)
		server.Put(name, azuretest.Secret{Value: "c4n4ry"})
	}
	server.Put("off", azuretest.Secret{Disabled: true})
	names, err := p.(providers.Lister).List(t.Context(), providers.Query{})
	if diff := cmp.Diff(all, names); err != nil || diff != "" {
		t.Errorf("error %v, mismatch (-want +got):\n%s", err, diff)
	}
	names, err = p.(providers.Lister).List(t.Context(), providers.Query{Metadata: map[string]string{"maxresults": "30"}})
	if err != nil || len(names) != 30 {
		t.Errorf("%d names of at most 30, %v", len(names), err)
	}
	if _, err = p.(providers.Lister).List(t.Context(), providers.Query{Metadata: map[string]string{"maxresults": "many"}}); providers.KindOf(err) != providers.Invalid {
		t.Errorf("maxresults that is no number: %v", err)
	}
}

func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		fault servertest.Fault
		kind  providers.Kind
		text  string
		after time.Duration
	}{
		"half a body":    {servertest.Fault{}, providers.Unavailable, "no usable answer", 0},
		"429":            {servertest.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, providers.Throttled, "fewer requests", 7 * time.Second},
		"429 in ms":      {servertest.Fault{Status: 429, Header: http.Header{"X-Ms-Retry-After-Ms": {"1500"}}}, providers.Throttled, "", 1500 * time.Millisecond},
		"503":            {servertest.Fault{Status: 503, Header: http.Header{"Retry-After": {"2"}}}, providers.Unavailable, "503", 2 * time.Second},
		"code of a kind": {servertest.Fault{Status: 400, Code: "Bad c4n4ry"}, providers.Invalid, "(400)", 0},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			p := vault(t, server, nil)
			server.Put("db", azuretest.Secret{Value: "c4n4ry"})
			server.FailName("db", tt.fault)
			wantKind(t, p, providers.Query{Name: "db"}, tt.kind, tt.text)
			_, _, err := storetest.Fetch(t, p, providers.Query{Name: "db"})
			if providers.RetryAfter(err) != tt.after {
				t.Errorf("RetryAfter %v, want %v", providers.RetryAfter(err), tt.after)
			}
			if n := len(server.Calls("secrets/get")); n != 2 {
				t.Errorf("%d calls for two reads: a driver does not retry", n)
			}
		})
	}
}

// TestCertificate reads a certificate whose chain is stored in the wrong order.
func TestCertificate(t *testing.T) {
	server := newServer(t)
	p := vault(t, server, nil)
	leaf, intermediate, root, key := chain(t)
	var stored strings.Builder
	for _, c := range []*x509.Certificate{root, leaf, intermediate} {
		_ = pem.Encode(&stored, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	version := server.Put("web", azuretest.Secret{Value: stored.String() + keyPEM, ContentType: "application/x-pem-file"})
	got, payload, err := storetest.Fetch(t, p, providers.Query{Name: "certificates/web"})
	var ordered strings.Builder
	for _, c := range []*x509.Certificate{leaf, intermediate, root} {
		_ = pem.Encode(&ordered, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	if diff := cmp.Diff(map[string]string{"tls.crt": ordered.String(), "tls.key": keyPEM}, got); err != nil || diff != "" || payload.Version != version {
		t.Errorf("version %q, error %v, mismatch (-want +got):\n%s", payload.Version, err, diff)
	}
	want(t, p, providers.Query{Name: "web"}, stored.String()+keyPEM)

	server.Put("none", azuretest.Secret{Value: "c4n4ry"})
	wantKind(t, p, providers.Query{Name: "certificates/none"}, providers.Invalid, "no certificate with its key")
	wantKind(t, p, providers.Query{Name: "certificates/"}, providers.Invalid, "")
	wantKind(t, p, providers.Query{Name: "certificates/x/y"}, providers.Invalid, "")
}

// TestPFX reads a certificate as Key Vault exports it: PKCS #12 without a password, in base64 (made by openssl with
// -legacy -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1).
func TestPFX(t *testing.T) {
	server := newServer(t)
	p := vault(t, server, nil)
	server.Put("pfx", azuretest.Secret{Value: pfx, ContentType: "application/x-pkcs12"})
	got, _, err := storetest.Fetch(t, p, providers.Query{Name: "certificates/pfx"})
	if err != nil {
		t.Fatal(err)
	}
	if base64.StdEncoding.EncodeToString([]byte(got["tls.pfx"])) != pfx {
		t.Error("the file came back changed")
	}
	block, _ := pem.Decode([]byte(got["tls.crt"]))
	keyBlock, _ := pem.Decode([]byte(got["tls.key"]))
	if block == nil || keyBlock == nil {
		t.Fatalf("fields %v", got)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil || c.Subject.CommonName != "pfx.example" {
		t.Errorf("certificate of %v, %v", c, err)
	}
}

func TestKey(t *testing.T) {
	server := newServer(t)
	p := vault(t, server, nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	server.PutKey("sign", map[string]any{"kid": server.URL + "/keys/sign/0123", "kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])})
	server.PutKey("odd", map[string]any{"kid": server.URL + "/keys/odd/1", "kty": "oct-HSM"})
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	payload := want(t, p, providers.Query{Name: "keys/sign"}, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	if payload.Version != "0123" {
		t.Errorf("version %q", payload.Version)
	}
	wantKind(t, p, providers.Query{Name: "keys/odd"}, providers.Invalid, "of a kind that is known")
	wantKind(t, p, providers.Query{Name: "keys/none"}, providers.NotFound, "")
}
