package vault_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/vault"
	"github.com/keywell/keywell/pkg/providers/vault/vaulttest"
)

func TestValues(t *testing.T) {
	data := map[string]any{
		"text": "a b", "number": json.Number("42.50"), "flag": true, "none": nil,
		"list": []string{"x", "y"}, "object": map[string]any{"k": "v"},
	}
	for _, kind := range []string{"kv-v2", "kv"} {
		t.Run(kind, func(t *testing.T) {
			k := newKV(t, vaulttest.Shared(t), kind)
			k.put(t, "app/db", data)
			number := map[string]string{"kv-v2": "42.5", "kv": "42.50"}[kind] // version 2 rewrites it
			got := fetch(t, open(t, k.pairs), providers.Query{Name: "app/db"})
			want := map[string]string{
				"text": "a b", "number": number, "flag": "true", "none": "", "list": `["x","y"]`, "object": `{"k":"v"}`,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			got = fetch(t, open(t, merged(k.pairs, map[string]string{"vaultValueType": "text"})), providers.Query{Name: "app/db"})
			var decoded map[string]any
			if err := json.Unmarshal([]byte(got["app/db"]), &decoded); err != nil || len(got) != 1 || decoded["text"] != "a b" || len(decoded) != len(data) {
				t.Errorf("text mode gives %d fields, %v", len(got), err)
			}
		})
	}
}

func TestMultipleKeyValues(t *testing.T) {
	for value, want := range map[string]bool{"": true, "map": true, "text": false} {
		if got := vault.Driver().MultipleKeyValues(providers.Config{Properties: properties(map[string]string{"vaultValueType": value})}); got != want {
			t.Errorf("%q: %t", value, got)
		}
	}
}

func TestPrefix(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"where": "dapr"})
	k.Server.Put(t, k.mount+"/data/db", map[string]any{"data": map[string]any{"where": "top"}})
	k.Server.Put(t, k.mount+"/data/team/eu/db", map[string]any{"data": map[string]any{"where": "team"}})
	for name, tt := range map[string]struct {
		pairs map[string]string
		want  string
	}{
		"default":        {nil, "dapr"},
		"none":           {map[string]string{"vaultKVUsePrefix": "false"}, "top"},
		"another":        {map[string]string{"vaultKVPrefix": "/team/eu/"}, "team"},
		"not used":       {map[string]string{"vaultKVPrefix": "team/eu", "vaultKVUsePrefix": "no"}, "top"},
		"mount's slash":  {map[string]string{"enginePath": "/" + k.mount + "/"}, "dapr"},
		"kind is set":    {map[string]string{"vaultEngine": "kv-v2"}, "dapr"},
		"address' slash": {map[string]string{"vaultAddr": k.Proxy.Addr + "/"}, "dapr"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fetch(t, open(t, merged(k.pairs, tt.pairs)), providers.Query{Name: "db"}); got["where"] != tt.want {
				t.Errorf("read %q, want %q", got["where"], tt.want)
			}
		})
	}
}

// TestNamesAreEscaped: in Dapr a ? or .. in a name changes the request.
func TestNamesAreEscaped(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	p := open(t, k.pairs)
	for _, name := range []string{"a?version=1", "b#c", "d e", "f%2e", "g;h", "ü/ö", "i+j", "k&l=m"} {
		k.put(t, name, map[string]any{"k": name})
		if got := fetch(t, p, providers.Query{Name: name}); got["k"] != name {
			t.Errorf("%q: read %q", name, got["k"])
		}
	}
	names, err := list(t, p)
	if want := []string{"a?version=1", "b#c", "d e", "f%2e", "g;h", "i+j", "k&l=m", "ü/ö"}; err != nil || !cmp.Equal(want, names) {
		t.Errorf("List = %q, %v", names, err)
	}
}

func TestVersions(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	for _, value := range []string{"one", "two", "three"} {
		k.put(t, "db", map[string]any{"k": value})
	}
	p := open(t, k.pairs)
	for version, want := range map[string]string{"": "three", "0": "three", "1": "one", "2": "two"} {
		if got := fetch(t, p, providers.Query{Name: "db", Version: version}); got["k"] != want {
			t.Errorf("version %q: %q", version, got["k"])
		}
	}
	for _, version := range []string{"x", "-1", "01", "1.5", "1&list=true"} {
		wantKind(t, p, providers.Query{Name: "db", Version: version}, providers.Invalid, "is not a number")
	}
	k.Server.Put(t, k.mount+"/delete/dapr/db", map[string]any{"versions": []int{2, 3}})
	wantKind(t, p, providers.Query{Name: "db", Version: "2"}, providers.NotFound, "")
	wantKind(t, p, providers.Query{Name: "db"}, providers.NotFound, "")
	wantKind(t, p, providers.Query{Name: "db", Known: "3"}, providers.NotFound, "")
	k.Server.Put(t, k.mount+"/destroy/dapr/db", map[string]any{"versions": []int{1}})
	wantKind(t, p, providers.Query{Name: "db", Version: "1"}, providers.NotFound, "")

	one := newKV(t, k.Server, "kv")
	one.put(t, "db", map[string]any{"k": "v"})
	p = open(t, one.pairs)
	wantKind(t, p, providers.Query{Name: "db", Version: "1"}, providers.Invalid, "version 1 has none")
	if got := fetch(t, p, providers.Query{Name: "db", Version: "0"}); got["k"] != "v" {
		t.Errorf("version 0 of a KV engine without versions: %q", got)
	}
}

func TestCustomMetadata(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	k.Server.Put(t, k.mount+"/metadata/dapr/db", map[string]any{"custom_metadata": map[string]string{"owner": "team-a"}})
	p := open(t, k.pairs)
	if got := fetch(t, p, providers.Query{Name: "db"}); len(got) != 1 {
		t.Errorf("without being asked: %v", got)
	}
	got := fetch(t, p, providers.Query{Name: "db", Metadata: map[string]string{"with_metadata": "true"}})
	created := got["metadata.created_time"]
	delete(got, "metadata.created_time")
	if diff := cmp.Diff(map[string]string{"k": "v", "metadata.version": "1", "metadata.custom.owner": "team-a"}, got); diff != "" || !strings.HasPrefix(created, "20") {
		t.Errorf("created %q, fields (-want +got):\n%s", created, diff)
	}
	k.put(t, "db", map[string]any{"metadata.version": "mine"})
	wantKind(t, p, providers.Query{Name: "db", Metadata: map[string]string{"with_metadata": "true"}}, providers.Invalid, "metadata.version")
}

// TestVersionPolling: what is known is compared by version; a token that may not do so reads the value, and is not made
// to ask again.
func TestVersionPolling(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	version := k.put(t, "db", map[string]any{"k": "v"})
	for name, tt := range map[string]struct {
		pairs map[string]string
		rules []string
		want  []string // after the first read
	}{
		"allowed":     {nil, []string{k.mount + "/*", "read"}, []string{"metadata", "metadata", "metadata"}},
		"not allowed": {nil, []string{k.mount + "/data/*", "read"}, []string{"metadata", "data", "data", "data"}},
		"turned off":  {map[string]string{"vaultPollVersions": "false"}, []string{k.mount + "/*", "read"}, []string{"data", "data", "data"}},
	} {
		t.Run(name, func(t *testing.T) {
			token := k.NewToken(t, "", k.Policy(t, tt.rules...))
			p := open(t, merged(k.pairs, map[string]string{"vaultToken": token}, tt.pairs))
			fetch(t, p, providers.Query{Name: "db"})
			k.Seen()
			for range 3 {
				if _, err := p.Fetch(t.Context(), providers.Query{Name: "db", Known: version}); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			for _, seen := range k.Seen() {
				if kind, ok := strings.CutPrefix(seen, "GET /v1/"+k.mount+"/"); ok {
					got = append(got, strings.TrimSuffix(kind, "/dapr/db"))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestListRecurses(t *testing.T) {
	for _, kind := range []string{"kv-v2", "kv"} {
		t.Run(kind, func(t *testing.T) {
			k := newKV(t, vaulttest.Shared(t), kind)
			want := []string{"a", "a/b/c/d/e", "a/x", "m/n", "z"}
			for _, name := range want {
				k.put(t, name, map[string]any{"k": "v"})
			}
			k.Server.Put(t, k.mount+map[string]string{"kv-v2": "/data/other/x", "kv": "/other/x"}[kind], map[string]any{"data": map[string]any{"k": "v"}})
			names, err := list(t, open(t, k.pairs))
			if diff := cmp.Diff(want, names); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestTokenFile: a token that is replaced in its file is used at once, and white space does not matter.
func TestTokenFile(t *testing.T) {
	k := newKV(t, vaulttest.Shared(t), "kv-v2")
	k.put(t, "db", map[string]any{"k": "v"})
	path := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, merged(k.pairs, map[string]string{"vaultToken": "", "vaultTokenMountPath": path}))
	wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "vaultTokenMountPath")
	write("hvs.unknown")
	wantKind(t, open(t, merged(k.pairs, map[string]string{"vaultToken": "", "vaultTokenMountPath": path})), providers.Query{Name: "db"}, providers.Denied, "")
	write(" " + k.NewToken(t, "", k.policy) + "\n")
	p = open(t, merged(k.pairs, map[string]string{"vaultToken": "", "vaultTokenMountPath": path}))
	fetch(t, p, providers.Query{Name: "db"})
	write(k.NewToken(t, "", k.Policy(t, "nothing", "read")))
	wantKind(t, p, providers.Query{Name: "db"}, providers.Denied, "")
	write(k.NewToken(t, "", k.policy))
	fetch(t, p, providers.Query{Name: "db"})
}

func TestConfigurationErrors(t *testing.T) {
	token := map[string]string{"vaultToken": "c4n4ry"}
	for name, tt := range map[string]struct {
		pairs    map[string]string
		identity providers.Identity
		want     string
	}{
		"no token":            {nil, "", `"vaultToken" or vaultTokenMountPath is needed`},
		"two tokens":          {map[string]string{"vaultToken": "c4n4ry", "vaultTokenMountPath": "/x"}, "", `"vaultToken" or vaultTokenMountPath is needed`},
		"address":             {merged(token, map[string]string{"vaultAddr": "vault:8200"}), "", `"vaultAddr" is not a URL`},
		"address with a user": {merged(token, map[string]string{"vaultAddr": "https://u:c4n4ry@v"}), "", `"vaultAddr" has more`},
		"value type":          {merged(token, map[string]string{"vaultValueType": "xml"}), "", `"vaultValueType" is neither`},
		"engine":              {merged(token, map[string]string{"vaultEngine": "kv3"}), "", `"vaultEngine" is not one of detect, kv-v1, kv-v2, path`},
		"engine path":         {merged(token, map[string]string{"enginePath": "a/../b"}), "", `"enginePath" is not a path`},
		"no engine path":      {merged(token, map[string]string{"enginePath": "/"}), "", `"enginePath" is empty`},
		"prefix":              {merged(token, map[string]string{"vaultKVPrefix": "a//b"}), "", `"vaultKVPrefix" is not a path`},
		"CA":                  {merged(token, map[string]string{"caPem": "c4n4ry"}), "", `"caPem" holds no certificate`},
		"CA file":             {merged(token, map[string]string{"caCert": "/nowhere"}), "", `"caCert" leads to no certificate`},
		"CA directory":        {merged(token, map[string]string{"caPath": "/nowhere"}), "", `"caPath" leads to no certificate`},
		"half a certificate":  {merged(token, map[string]string{"tlsClientKeyPath": "/x"}), "", "belong together"},
		"method":              {map[string]string{"vaultAuthMethod": "ldap"}, "", `"vaultAuthMethod" is not one of token, kubernetes, jwt`},
		"kubernetes":          {map[string]string{"vaultAuthMethod": "kubernetes"}, "", `"vaultAuthRole" is needed`},
		"approle":             {map[string]string{"vaultAuthMethod": "approle"}, "", `"vaultRoleID" is needed`},
		"two secret ids":      {map[string]string{"vaultAuthMethod": "approle", "vaultRoleID": "r", "vaultSecretID": "c4n4ry", "vaultSecretIDPath": "/x"}, "", "exclude"},
		"cert":                {map[string]string{"vaultAuthMethod": "cert"}, "", `"tlsClientCertPath" is needed`},
		"userpass":            {map[string]string{"vaultAuthMethod": "userpass", "vaultUsername": "u"}, "", `"vaultUsername" and vaultPassword`},
		"pod by token":        {token, providers.AsPod, `must be kubernetes or jwt where identity is pod`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := vault.Driver().Open(t.Context(), providers.Config{Name: "vault", Properties: properties(tt.pairs), Identity: tt.identity})
			if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
