package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"

	"github.com/keywell/keywell/pkg/providers/trust"
)

// clientConfig returns what verifies a server that is reached as host. CA files and the client's certificate are read at
// each handshake, so a CA that rotates needs no restart; connections that are open stay so.
func (t tlsConfig) clientConfig(host string) (*tls.Config, error) {
	name := t.serverName
	if name == "" {
		name = host
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if t.certificate != "" {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certificate, err := tls.LoadX509KeyPair(t.certificate, t.certificateKey)
			return &certificate, err
		}
	}
	switch {
	case t.skipVerify:
		cfg.InsecureSkipVerify = true
	case t.caPEM != "":
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(t.caPEM)) {
			return nil, invalid("caPem", "holds no certificate in PEM")
		}
	case t.caDir != "" || t.caFile != "":
		if _, err := t.roots(); err != nil {
			return nil, invalid(t.rootsProperty(), err.Error())
		}
		trust.Follow(cfg, name, t.roots)
	}
	return cfg, nil
}

func (t tlsConfig) rootsProperty() string {
	if t.caDir != "" {
		return "caPath"
	}
	return "caCert"
}

// roots reads the CA files as they are now. As in Dapr, a directory comes before a file.
func (t tlsConfig) roots() (*x509.CertPool, error) {
	files := []string{t.caFile}
	if t.caDir != "" {
		var err error
		if files, err = filepath.Glob(filepath.Join(t.caDir, "*")); err != nil {
			return nil, errors.New("is not a directory that can be read")
		}
	}
	pool, found := x509.NewCertPool(), false
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err == nil && pool.AppendCertsFromPEM(pem) {
			found = true
		}
	}
	if !found {
		return nil, errors.New("leads to no certificate in PEM")
	}
	return pool, nil
}
