package bench_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// valueBytes is the length of every secret value.
const valueBytes = 64

// The stores, named by how many secrets they hold. A secret has one field, named as itself.
var stores = map[string]int{"hundred": 100, "thousand": 1000}

const component = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: %s}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
  - {name: secretsFile, value: %s}
`

// secretName names the i-th secret of a store.
func secretName(i int) string { return "secret-" + strconv.Itoa(i) }

// secretNames returns the names of the first n secrets, joined by commas.
func secretNames(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = secretName(i)
	}
	return strings.Join(names, ",")
}

// secretValue is the value of a secret: text that differs from all others'.
func secretValue(store, name string) string {
	value := store + "/" + name + "/"
	return value + strings.Repeat("x", valueBytes-len(value))
}

// writeStores writes the secrets and the Component manifests, in <dir>/resources.
func writeStores(t *testing.T, dir string) {
	t.Helper()
	resources := filepath.Join(dir, "resources")
	if err := os.Mkdir(resources, 0o755); err != nil {
		t.Fatal(err)
	}
	for store, count := range stores {
		secrets := map[string]string{}
		for i := range count {
			secrets[secretName(i)] = secretValue(store, secretName(i))
		}
		content, err := json.Marshal(secrets)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, store+".json")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(-time.Hour) // what was just written is read twice, in case it was not finished
		if err := os.Chtimes(file, past, past); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(resources, store+".yaml"), fmt.Appendf(nil, component, store, file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// scratch returns a directory on a tmpfs of its own, as a host's /run is one, until the test ends. Whatever is mounted
// below it goes with it.
func scratch(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	// Paths of Unix sockets are at most 107 bytes long, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "keywell-bench-")
	if err != nil {
		t.Fatal(err)
	}
	if err := mountScratch(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeScratch(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}
