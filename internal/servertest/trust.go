package servertest

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// RunTrusting is the TestMain of a driver that can't be told whom to trust: it makes the certificate of Serve one that is
// trusted, before anyone asks which are, hides what this machine knows of a cloud behind env and an empty home, which $HOME
// stands for, runs the tests and ends the program.
func RunTrusting(m *testing.M, env map[string]string) {
	home, err := os.MkdirTemp("", "servertest")
	if err != nil {
		panic(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	roots := filepath.Join(home, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		panic(err)
	}
	server.Close()
	all := map[string]string{"SSL_CERT_FILE": roots, "SSL_CERT_DIR": home, "HOME": home}
	for name, value := range env {
		all[name] = os.Expand(value, func(string) string { return home })
	}
	for name, value := range all {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(home)
	os.Exit(code)
}
