package keystore_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/keywell/keywell/pkg/keystore"
)

// authority is a certificate with the key to issue others.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// issue returns a certificate signed by issuer, or by itself if that is nil.
func issue(t testing.TB, name string, ca bool, issuer *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IsCA: ca, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	parent, signer := tmpl, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert}
}

func (a *authority) certPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) keyPEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func parse(t testing.TB, texts ...string) keystore.Bundle {
	t.Helper()
	b, err := keystore.Parse(bytesOf(texts))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bytesOf(texts []string) (all [][]byte) {
	for _, text := range texts {
		all = append(all, []byte(text))
	}
	return all
}

func TestPEM(t *testing.T) {
	root := issue(t, "root", true, nil)
	middle := issue(t, "middle", true, root)
	leaf := issue(t, "leaf", false, middle)
	other := issue(t, "other", true, nil)
	list, err := json.Marshal([]string{middle.certPEM(), root.certPEM()})
	if err != nil {
		t.Fatal(err)
	}
	r, m, l, o, k := root.certPEM(), middle.certPEM(), leaf.certPEM(), other.certPEM(), leaf.keyPEM(t)
	tests := []struct {
		name                string
		texts               []string
		chain, ca, key, all string
	}{
		{"in order", []string{k + l + m + r}, l + m, r, k, l + m + k},
		{"in no order, some twice", []string{r, "text", m + r, o, k, m, l}, l + m, r + o, k, l + m + k},
		{"list as Vault returns it", []string{string(list), l, k, m, "2b:7f", "ec"}, l + m, r, k, l + m + k},
		{"without a root", []string{m, l, k}, l + m, m, k, l + m + k},
		{"no issuer known", []string{l, k}, l, "", k, l + k},
		{"no key", []string{m, l, r}, l + m, r, "", l + m},
		{"CAs alone", []string{m + r + o}, "", m + r + o, "", m + r + o},
		{"self-signed", []string{other.keyPEM(t), o}, o, o, other.keyPEM(t), o + other.keyPEM(t)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := parse(t, tt.texts...)
			for what, got := range map[string][2]string{
				"chain": {tt.chain, string(b.ChainPEM())}, "CA": {tt.ca, string(b.CAPEM())},
				"key": {tt.key, string(b.KeyPEM())}, "all": {tt.all, string(b.PEM())},
			} {
				if diff := cmp.Diff(got[0], got[1]); diff != "" {
					t.Errorf("%s: %s", what, diff)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	a, b := issue(t, "a", false, nil), issue(t, "b", false, nil)
	block := func(kind string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("c4n4ry")}))
	}
	for name, tt := range map[string]struct {
		texts []string
		want  string
	}{
		"nothing":             {nil, "no certificate in PEM form"},
		"a key alone":         {[]string{a.keyPEM(t)}, "no certificate in PEM form"},
		"somebody else's key": {[]string{a.certPEM(), b.keyPEM(t)}, "no certificate is that of the private key"},
		"two keys":            {[]string{a.certPEM(), a.keyPEM(t), b.keyPEM(t)}, "two private keys; list the fields of one"},
		"broken certificate":  {[]string{block("CERTIFICATE")}, "a certificate can't be parsed"},
		"broken key":          {[]string{a.certPEM(), block("PRIVATE KEY")}, "a private key can't be parsed"},
		"encrypted key":       {[]string{a.certPEM(), block("ENCRYPTED PRIVATE KEY")}, `"ENCRYPTED PRIVATE KEY", which is not supported; store it as PKCS#8 without a password`},
	} {
		_, err := keystore.Parse(bytesOf(tt.texts))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
}

func TestPKCS12(t *testing.T) {
	root := issue(t, "root", true, nil)
	leaf := issue(t, "leaf", false, root)
	b := parse(t, root.certPEM(), leaf.certPEM(), leaf.keyPEM(t))
	data, err := b.PKCS12("changeit")
	if err != nil {
		t.Fatal(err)
	}
	key, cert, cas, err := pkcs12.DecodeChain(data, "changeit")
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.key.Equal(key) || !cert.Equal(leaf.cert) || len(cas) != 1 || !cas[0].Equal(root.cert) {
		t.Errorf("it holds %v, %v, %v", key, cert, cas)
	}
	if _, _, _, err := pkcs12.DecodeChain(data, "other"); err == nil {
		t.Error("any password opens it")
	}
	trust, err := parse(t, root.certPEM()).PKCS12("changeit")
	if err != nil {
		t.Fatal(err)
	}
	if trusted, err := pkcs12.DecodeTrustStore(trust, "changeit"); err != nil || len(trusted) != 1 {
		t.Errorf("it trusts %v, %v", trusted, err)
	}
	for _, password := range []string{"", "\U0001F511"} {
		if _, err := b.PKCS12(password); err == nil || password != "" && strings.Contains(err.Error(), password) {
			t.Errorf("password %q: %v", password, err)
		}
	}
}

func TestJKS(t *testing.T) {
	root := issue(t, "root", true, nil)
	leaf := issue(t, "leaf", false, root)
	data, err := parse(t, root.certPEM(), leaf.certPEM(), leaf.keyPEM(t)).JKS("changeit")
	if err != nil {
		t.Fatal(err)
	}
	store := jks.New()
	if err := store.Load(bytes.NewReader(data), []byte("changeit")); err != nil {
		t.Fatal(err)
	}
	entry, err := store.GetPrivateKeyEntry("1", []byte("changeit"))
	if err != nil || len(entry.CertificateChain) != 2 || !bytes.Equal(entry.CertificateChain[0].Content, leaf.cert.Raw) {
		t.Errorf("it holds %d certificates, %v", len(entry.CertificateChain), err)
	}
	if key, err := x509.ParsePKCS8PrivateKey(entry.PrivateKey); err != nil || !leaf.key.Equal(key) {
		t.Errorf("it holds another key, %v", err)
	}
	trust, err := parse(t, root.certPEM(), issue(t, "other", true, nil).certPEM()).JKS("changeit")
	if err != nil {
		t.Fatal(err)
	}
	store = jks.New()
	if err := store.Load(bytes.NewReader(trust), []byte("changeit")); err != nil || len(store.Aliases()) != 2 || !store.IsTrustedCertificateEntry("0001") {
		t.Errorf("it trusts %v, %v", store.Aliases(), err)
	}
}

// TestDeterministic encodes twice: the same bytes for the same input, other salts for another.
func TestDeterministic(t *testing.T) {
	one, two := issue(t, "one", false, nil), issue(t, "two", false, nil)
	for name, encode := range map[string]func(keystore.Bundle) ([]byte, error){
		"pkcs12": func(b keystore.Bundle) ([]byte, error) { return b.PKCS12("changeit") },
		"jks":    func(b keystore.Bundle) ([]byte, error) { return b.JKS("changeit") },
	} {
		var all [][]byte
		for _, a := range []*authority{one, one, two} {
			data, err := encode(parse(t, a.certPEM(), a.keyPEM(t)))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data)
		}
		if !bytes.Equal(all[0], all[1]) {
			t.Errorf("%s differs each time", name)
		}
		if bytes.Equal(all[0], all[2]) {
			t.Errorf("%s of another key is the same", name)
		}
	}
}

// TestOpenSSL has OpenSSL read what PKCS12 writes.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl on this machine")
	}
	a := issue(t, "leaf", false, nil)
	data, err := parse(t, a.certPEM(), a.keyPEM(t)).PKCS12("changeit")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.p12")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(openssl, "pkcs12", "-in", file, "-passin", "pass:changeit", "-nodes").CombinedOutput()
	if err != nil || !strings.Contains(string(out), strings.TrimSpace(a.keyPEM(t))) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestKeytool has Java read what JKS and PKCS12 write.
func TestKeytool(t *testing.T) {
	keytool, err := exec.LookPath("keytool")
	if err != nil {
		t.Skip("there is no keytool on this machine")
	}
	root := issue(t, "root", true, nil)
	a := issue(t, "leaf", false, root)
	for name, encode := range map[string]func(keystore.Bundle) ([]byte, error){
		"pkcs12": func(b keystore.Bundle) ([]byte, error) { return b.PKCS12("changeit") },
		"jks":    func(b keystore.Bundle) ([]byte, error) { return b.JKS("changeit") },
	} {
		for want, b := range map[string]keystore.Bundle{
			"PrivateKeyEntry":  parse(t, a.certPEM(), a.keyPEM(t), root.certPEM()),
			"trustedCertEntry": parse(t, root.certPEM()),
		} {
			data, err := encode(b)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(keytool, "-list", "-keystore", file, "-storepass", "changeit", "-storetype", name).CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%s: %v: %s does not say %s", name, err, out, want)
			}
		}
	}
	if _, err := parse(t, a.certPEM(), a.keyPEM(t)).JKS("pässword"); err == nil {
		t.Error("a password that Java reads in another way is taken")
	}
}

func FuzzParse(f *testing.F) {
	a := issue(f, "a", false, issue(f, "ca", true, nil))
	f.Add([]byte(a.certPEM()+a.keyPEM(f)), []byte(`["x"]`))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		b, err := keystore.Parse([][]byte{one, two})
		if err != nil {
			return
		}
		if len(b.PEM()) == 0 {
			t.Error("nothing was found, and no error")
		}
	})
}
