package sdk_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestJSSDK runs js/secrets.mjs, which asserts for itself, once for each protocol.
func TestJSSDK(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed")
	}
	if _, err := os.Stat(filepath.Join("js", "node_modules", "@dapr", "dapr")); err != nil {
		t.Skip("the JS SDK is not installed: run npm ci in test/sdk/js")
	}
	a := start(t)
	rotating := filepath.Join(a.dir, "rotating.json")
	for protocol, address := range map[string]string{"http": a.http, "grpc": a.grpc} {
		t.Run(protocol, func(t *testing.T) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "node", "secrets.mjs", protocol, host, port, rotating)
			cmd.Dir = "js"
			cmd.Env = append(os.Environ(), "DAPR_API_TOKEN="+token)
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
		})
	}
}
