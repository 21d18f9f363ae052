package volume_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/keywell/keywell/pkg/volume"
)

// certificate returns a new private key and its certificate, signed by itself, as PEM.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func TestKeystores(t *testing.T) {
	cert, key := certificate(t)
	stored := fields{"certificate": cert, "private_key": key, "serial_number": "01", "ca_chain": "[]"}
	files := func(secrets string, stored ...fields) map[string]string {
		t.Helper()
		files, err := project(t, map[string]string{"store": "s", "secrets": secrets}, stored...)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range files {
			got[f.Path] = string(f.Data.Reveal())
		}
		return got
	}
	t.Run("tls", func(t *testing.T) {
		want := map[string]string{"d/tls.crt": cert, "d/tls.key": key, "d/ca.crt": cert}
		if diff := cmp.Diff(want, files("[{name: web, path: d, format: tls}]", stored)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("tls of listed fields, in the volume's own directory", func(t *testing.T) {
		want := map[string]string{"tls.crt": cert, "ca.crt": cert}
		if diff := cmp.Diff(want, files("[{name: web, path: ., format: tls, fields: [certificate]}]", stored)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("pem", func(t *testing.T) {
		if diff := cmp.Diff(map[string]string{"web": cert + key}, files("[{name: web, format: pem}]", stored)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("pkcs12", func(t *testing.T) {
		got := files("[{name: web, path: web.p12, format: pkcs12, password: changeit}]", stored)["web.p12"]
		if _, _, _, err := pkcs12.DecodeChain([]byte(got), "changeit"); err != nil {
			t.Error(err)
		}
	})
	t.Run("jks with the password of another secret", func(t *testing.T) {
		got := files("[{name: web, path: web.jks, format: jks, password: {name: pw, field: p}}]", stored, fields{"p": "from the store"})["web.jks"]
		if err := jks.New().Load(bytes.NewReader([]byte(got)), []byte("from the store")); err != nil {
			t.Error(err)
		}
	})
	t.Run("optional", func(t *testing.T) {
		if got := files("[{name: web, format: pkcs12, password: {name: pw}, optional: true}]", nil, fields{"password": "x"}); len(got) > 0 {
			t.Errorf("there are files: %d", len(got))
		}
	})
}

// TestKeystoresAreNotRewritten rotates: salts are no reason to write.
func TestKeystoresAreNotRewritten(t *testing.T) {
	cert, key := certificate(t)
	n := newNode(t)
	n.store.set("web", fields{"tls.crt": cert, "tls.key": key})
	n.store.set("pw", fields{"password": "one"})
	if err := n.Publish(t.Context(), n.request("v", "[{name: web, path: p12, format: pkcs12, password: {name: pw}}, {name: web, path: jks, format: jks, password: x}]")); err != nil {
		t.Fatal(err)
	}
	if outcome, err := n.Rotate(t.Context(), "v"); err != nil || outcome.Changed {
		t.Errorf("rotated: %+v, %v", outcome, err)
	}
	if got := n.Using("s", "pw"); len(got) != 1 {
		t.Errorf("a change of the password nudges %v", got)
	}
	n.store.set("pw", fields{"password": "two"})
	if outcome, err := n.Rotate(t.Context(), "v"); err != nil || !outcome.Changed {
		t.Errorf("rotated: %+v, %v", outcome, err)
	}
	if _, _, err := pkcs12.Decode([]byte(n.files(t, "v")["p12"]), "two"); err != nil {
		t.Error(err)
	}
}

func TestKeystorePasswordIsAuthorised(t *testing.T) {
	n := newNode(t)
	n.allow(t, "pw")
	err := n.Publish(t.Context(), n.request("v", "[{name: web, format: pkcs12, password: {name: pw}}]"))
	if err == nil || !strings.Contains(err.Error(), `secret "pw" of store "s"`) || n.store.count() > 0 {
		t.Errorf("got %v after %d reads", err, n.store.count())
	}
}

func TestKeystoresRefuse(t *testing.T) {
	const canary = "c4n4ry"
	cert, key := certificate(t)
	web := fields{"tls.crt": cert, "tls.key": key}
	for name, tt := range map[string]struct {
		secrets string
		stored  []fields
		want    string
	}{
		"no password":          {"[{name: web, format: pkcs12}]", nil, "format pkcs12 needs a password; write one, or {name, field} of a secret"},
		"password of a file":   {"[{name: web, password: x}]", nil, "only formats pkcs12 and jks have a password"},
		"password of nothing":  {"[{name: web, format: jks, password: {field: x}}]", nil, "its secret .password: it has no name"},
		"path of a field":      {"[{name: web, format: pem, fields: {tls.crt: x}}]", nil, "format pem has no path per field"},
		"same file":            {"[{name: web, path: ., format: tls}, {name: x, path: tls.key}]", nil, `both have path "tls.key"`},
		"no certificate":       {"[{name: web, format: pem}]", []fields{{"x": canary}}, "format pem: there is no certificate in PEM form"},
		"another key":          {"[{name: web, format: tls}]", []fields{{"x": "-----BEGIN PRIVATE KEY-----\n" + canary + "0=\n-----END PRIVATE KEY-----\n"}}, "a private key can't be parsed"},
		"no field of password": {"[{name: web, format: jks, password: {name: pw}}]", []fields{web, {"x": canary}}, `the secret with the password has no field "password"`},
		"empty password":       {"[{name: web, format: jks, password: {name: pw}}]", []fields{web, {"password": ""}}, "the password is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			attributes := map[string]string{"store": "s", "secrets": tt.secrets}
			_, err := volume.ParseSpec(attributes)
			if tt.stored != nil {
				_, err = project(t, attributes, tt.stored...)
			}
			var invalid *volume.InvalidError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestTemplateOfCertificates uses the functions for keys and certificates.
func TestTemplateOfCertificates(t *testing.T) {
	cert, key := certificate(t)
	files, err := project(t, map[string]string{"store": "s", "secrets": `
- path: haproxy.pem
  template: '{{ $t := index .web "both" }}{{ pemChain $t }}{{ pemKey $t }}{{ pemCA $t }}'
  secrets: {web: web}
- path: web.p12
  template: '{{ pemToPkcs12Pass .web.both "" "changeit" | b64dec }}'
  secrets: {web: web}
`}, fields{"both": key + cert}, fields{"both": key + cert})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cert+key+cert, string(files[0].Data.Reveal())); diff != "" {
		t.Error(diff)
	}
	if _, _, err := pkcs12.Decode(files[1].Data.Reveal(), "changeit"); err != nil {
		t.Error(err)
	}
}
