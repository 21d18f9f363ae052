package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// vault is the name of a store that is a file, which the agent has from a Secret. Its secrets are db and api-key.
const vault = "vault"

// installVault installs Keywell with that store, and lets pods of the namespaces read its secret db.
func installVault(t *testing.T, namespaces ...string) {
	t.Helper()
	putVault(t)
	install(t, withVault(namespaces...))
}

// putVault makes the Secret that the store is read from.
func putVault(t *testing.T) {
	t.Helper()
	needRoot(t)
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", keywellNamespace)+
		secretOf(keywellNamespace, "vault-file", map[string]string{"secrets.json": `{"db": {"password": "from a file"}, "api-key": "k-123"}`}))
}

func withVault(namespaces ...string) values {
	var rules []values
	for _, ns := range namespaces {
		rules = append(rules, values{"subjects": []values{{"namespace": ns}}, "stores": []string{vault}, "allow": []string{"db"}})
	}
	return defaults().
		with("credentialFiles", []string{"vault-file"}).
		with("stores", []values{{
			"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": values{"name": vault},
			"spec": values{"type": "secretstores.local.file", "version": "v1", "metadata": []values{
				{"name": "secretsFile", "value": "/etc/keywell/credentials/vault-file/secrets.json"},
				{"name": "multiValued", "value": "true"},
			}},
		}}).
		with("policies", []values{{
			"apiVersion": "keywell.dev/v1alpha1", "kind": "AccessPolicy", "metadata": values{"name": "e2e"},
			"spec": values{"rules": rules},
		}})
}

// TestPolicy opens a store to one namespace, and to a second by an upgrade.
func TestPolicy(t *testing.T) {
	installVault(t, "allowed")
	allowed, other := newNamespace(t, "allowed"), newNamespace(t, "other")
	apply(t, reader(allowed, "app")+reader(other, "app"))
	attributes := map[string]string{"store": vault, "secrets": "db"}

	first := pod{namespace: allowed, name: "app", serviceAccount: "app", attributes: attributes}
	first.start(t)
	first.wantFile(t, "db/password", "from a file")

	t.Run("a secret that the policy does not name", func(t *testing.T) {
		p := pod{namespace: allowed, name: "curious", serviceAccount: "app", attributes: map[string]string{"store": vault, "secrets": "api-key"}}
		apply(t, p.manifest())
		wantWhy(t, failedMount(t, p), "api-key", vault)
	})
	second := pod{namespace: other, name: "app", serviceAccount: "app", attributes: attributes}
	apply(t, second.manifest())
	wantWhy(t, failedMount(t, second), vault)

	began := time.Now()
	installVault(t, "allowed", "other")
	second.waitReady(t)
	measured(t, "pod refused by policy, from helm upgrade to ready", "%s", seconds(time.Since(began)))
	second.wantFile(t, "db/password", "from a file")
}

// wantWhy fails the test unless the line says all of that.
func wantWhy(t *testing.T, line string, parts ...string) {
	t.Helper()
	t.Log(line)
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("the event does not say %q", part)
		}
	}
}
