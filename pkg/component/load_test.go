package component_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

var update = flag.Bool("update", false, "rewrite the expected problems in testdata")

// values compares secret values by their bytes.
var values = cmp.Comparer(func(a, b secret.Value) bool { return a.Equal(b) })

// write puts content into a new file and returns its path.
func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// load loads one resource directory with one file.
func load(t *testing.T, content string) (*component.Manifests, []component.Problem) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), content)
	m, problems := component.Load(component.Sources{Directories: []string{dir}, AppID: "shop", PodName: "shop-0"})
	for i := range problems {
		problems[i].File = strings.TrimPrefix(problems[i].File, dir+"/")
	}
	return m, problems
}

func noProblems(t *testing.T, problems []component.Problem) {
	t.Helper()
	for _, p := range problems {
		t.Errorf("problem: %v", p)
	}
}

// TestBad loads each archive of testdata/bad: files below dir/ are a resource directory, those below config/ are
// configuration files. The file "want" holds the problems.
func TestBad(t *testing.T) {
	archives, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			src := component.Sources{
				Namespace: "prod", AppID: "shop",
				LookupEnv: func(name string) (string, bool) { return "expanded", name == "SET" },
			}
			var want string
			for _, f := range archive.Files {
				if f.Name == "want" {
					want = string(f.Data)
					continue
				}
				p := write(t, filepath.Join(root, f.Name), string(f.Data))
				if dir := filepath.Dir(p); strings.HasPrefix(f.Name, "config/") {
					src.Files = append(src.Files, p)
				} else if !slices.Contains(src.Directories, dir) {
					src.Directories = append(src.Directories, dir)
				}
			}
			m, problems := component.Load(src)
			var got strings.Builder
			for _, p := range problems {
				got.WriteString(p.String() + "\n")
			}
			for _, p := range m.Faulty {
				got.WriteString("denies every read: " + p.String() + "\n")
			}
			text := strings.ReplaceAll(got.String(), root+"/", "")
			if strings.Contains(text, "canary") {
				t.Errorf("text of a value in a problem:\n%s", text)
			}
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
				archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(text)})
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, text); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestComponent(t *testing.T) {
	m, problems := load(t, `# a comment
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: vault
  namespace: payments
  labels: {team: a}
spec:
  type: SecretStores.HashiCorp.Vault
  version: V1
  initTimeout: 1m
  ignoreErrors: yes
  metadata:
  - name: vaultAddr
    value: https://vault:8200
  - name: vaultToken
    secretKeyRef: {name: token}
  - name: caCert
    secretKeyRef: {name: ca, key: pem}
  - name: role
    envRef: ROLE
auth:
  secretStore: local
scopes: [shop, 7]
`)
	noProblems(t, problems)
	at := func(line int) component.Position {
		return component.Position{File: m.Components[0].Position.File, Line: line}
	}
	want := []component.Component{{
		Name: "vault", Namespace: "payments", Type: "secretstores.hashicorp.vault", Version: "V1",
		InitTimeout: time.Minute, IgnoreErrors: true, SecretStore: "local", Scopes: []string{"shop", "7"}, Position: at(3),
		Metadata: []component.Item{
			{Name: "vaultAddr", Value: secret.FromString("https://vault:8200"), HasValue: true, Position: at(15)},
			{Name: "vaultToken", SecretKeyRef: &component.KeyRef{Name: "token", Key: "token"}, Position: at(17)},
			{Name: "caCert", SecretKeyRef: &component.KeyRef{Name: "ca", Key: "pem"}, Position: at(19)},
			{Name: "role", EnvRef: "ROLE", Position: at(21)},
		},
	}}
	if diff := cmp.Diff(want, m.Components, values); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
}

// TestValue compares the text of a value with what Dapr's decoding makes of it.
func TestValue(t *testing.T) {
	tests := []struct{ name, yaml, want string }{
		{"string", `text`, "text"},
		{"quoted", `"a\tb"`, "a\tb"},
		{"empty", `""`, ""},
		{"quotes inside stay", `'"abc"'`, `"abc"`},
		{"integer", `5`, "5"},
		{"quoted integer", `"5"`, "5"},
		{"octal of YAML 1.1", `0777`, "511"},
		{"large integer", `18446744073709551615`, "18446744073709551615"},
		{"float", `1.50`, "1.5"},
		{"large float", `1e21`, "1e+21"},
		{"boolean", `true`, "true"},
		{"boolean of YAML 1.1", `yes`, "true"},
		{"quoted yes", `"yes"`, "yes"},
		{"tagged yes", `!!str yes`, "yes"},
		{"date", `2026-01-02`, "2026-01-02"},
		{"separated digits", `1_000`, "1000"},
		{"exponent", `1e3`, "1000"},
		{"leading point", `-.5`, "-0.5"},
		{"too large for an integer", `99999999999999999999`, "100000000000000000000"},
		{"tagged integer", `!!int "5"`, "5"},
		{"binary", `!!binary aGVsbG8=`, "hello"},
		{"odd keys", `{1.5: a, true: b}`, `{"1.5":"a","true":"b"}`},
		{"unknown tag", `!mine text`, "text"},
		{"list", `[a, 1, true, null, "<b>"]`, "[\"a\",1,true,null,\"\\u003cb\\u003e\"]"},
		{"mapping", `{b: {c: 1}, a: [x], 3: no}`, `{"3":false,"a":["x"],"b":{"c":1}}`},
		{"block", "|\n      a: b\n      c", "a: b\nc\n"},
		{"app id", `"{appID}/{podName}"`, "shop/shop-0"},
		{"namespace", `x-{namespace}`, "x-default.shop"},
		{"unknown token", `{other}`, `{"other":null}`},
		{"token in a list", `["{appID}"]`, `["shop"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, problems := load(t, "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec:\n  type: secretstores.x\n"+
				"  metadata:\n  - name: v\n    value: "+tt.yaml+"\n")
			noProblems(t, problems)
			item := m.Components[0].Metadata[0]
			if got := string(item.Value.Reveal()); got != tt.want || !item.HasValue {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestUUIDIsFreshPerOccurrence(t *testing.T) {
	m, problems := load(t, "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec:\n  type: secretstores.x\n"+
		"  metadata: [{name: v, value: '{uuid} {uuid}'}]\n")
	noProblems(t, problems)
	got := string(m.Components[0].Metadata[0].Value.Reveal())
	const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`
	if !regexp.MustCompile("^"+uuid+" "+uuid+"$").MatchString(got) || got[:36] == got[37:] {
		t.Errorf("got %q", got)
	}
}

// TestDaprAccepts holds manifests that Dapr loads although they look odd.
func TestDaprAccepts(t *testing.T) {
	tests := []struct{ name, yaml string }{
		{"names in another case", "APIVersion: dapr.io/v1alpha1\nKind: Component\nMetadata: {Name: s}\nSpec: {Type: secretstores.x}\n"},
		{"JSON", `{"apiVersion":"dapr.io/v1alpha1","kind":"Component","metadata":{"name":"s"},"spec":{"type":"secretstores.x"}}`},
		{"numbers for strings", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec: {type: secretstores.x, version: v1}\nscopes: [1]\n"},
		{"nulls", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s, labels: }\nspec: {type: secretstores.x, version: , metadata: }\nauth:\nscopes:\n"},
		{"text after the separator", "---\napiVersion: x\nkind: y\n--- # next\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec: {type: secretstores.x}\n"},
		{"Windows line ends", "kind: x\r\napiVersion: y\r\n---\r\napiVersion: dapr.io/v1alpha1\r\nkind: Component\r\nmetadata: {name: s}\r\nspec: {type: secretstores.x}\r\n"},
		{"anchors and merges", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: &m {name: s}\nspec:\n  <<: {type: secretstores.y, version: v1}\n  type: secretstores.x\n  metadata: [{<<: *m, value: 1}]\n"},
		{"fields of a Kubernetes object", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s, uid: u, generation: 2, managedFields: [{}]}\nspec: {type: secretstores.x}\nstatus: {}\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, problems := load(t, tt.yaml)
			for _, p := range problems {
				if p.Severity != component.Note {
					t.Errorf("problem: %v", p)
				}
			}
			if len(m.Components) != 1 || m.Components[0].Name != "s" || m.Components[0].Type != "secretstores.x" {
				t.Errorf("got %+v", m.Components)
			}
		})
	}
}

func TestRules(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "res/a.yaml"), `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault, namespace: payments}
spec: {type: secretstores.x}
scopes: [shop]
---
apiVersion: keywell.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payments}
spec:
  rules:
  - subjects: [{namespace: payments, serviceAccount: "*", appID: "checkout-*"}]
    stores: [vault]
    allow: ["payments/*"]
    deny: ["payments/root*"]
    namespaces: [other]
`)
	first := write(t, filepath.Join(dir, "first.yaml"), `spec:
  tracing: {samplingRate: "1"}
  secrets:
    scopes:
    - {storeName: vault, defaultAccess: deny}
    - storeName: other
      deniedSecrets: [$NAME, "${NAME}2"]
`)
	second := write(t, filepath.Join(dir, "second.yaml"), `apiVersion: dapr.io/v1alpha1
kind: Configuration
spec: {secrets: {scopes: [{storeName: vault, allowedSecrets: [a]}]}}
`)
	m, problems := component.Load(component.Sources{
		Directories: []string{filepath.Join(dir, "res")}, Files: []string{first, second},
		LookupEnv: func(string) (string, bool) { return "root", true },
	})
	noProblems(t, problems)
	policies := filepath.Join(dir, "res/a.yaml")
	want := scope.Rules{
		Closed: true,
		Stores: []scope.Store{{Name: "vault", Namespace: "payments", AppIDs: []string{"shop"}, Source: policies + ":1"}},
		Scopes: []scope.StoreScope{
			{Store: "vault", Allowed: []string{"a"}, Source: second + ":3"},
			{Store: "other", Denied: []string{"root", "root2"}, Source: first + ":6"},
		},
		Policies: []scope.AccessRule{{
			Subjects: []scope.Subject{{Namespace: "payments", ServiceAccount: "*", AppID: "checkout-*"}}, Stores: []string{"vault"},
			Allow: []string{"payments/*"}, Deny: []string{"payments/root*"}, Namespaces: []string{"other"}, Source: policies + ":12",
		}},
	}
	got := m.Rules(true)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if _, err := scope.NewPolicy(got); err != nil {
		t.Errorf("NewPolicy: %v", err)
	}
}

func TestFaultyPolicyDeniesEveryRead(t *testing.T) {
	const store = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec: {type: secretstores.x}\n"
	tests := []struct {
		name, yaml string
		allowed    bool
	}{
		{"good", store, true},
		{"faulty component", store + "---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: t}\nspec: [\n", true},
		{"faulty policy", store + "---\napiVersion: keywell.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {rule: []}\n", false},
		{"faulty scopes", store + "---\napiVersion: dapr.io/v1alpha1\nkind: Configuration\nspec: {secrets: {scopes: 7}}\n", false},
		{"unreadable policy", store + "---\nkind: AccessPolicy\n\tspec: [\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := load(t, tt.yaml)
			policy, err := scope.NewPolicy(m.Rules(false))
			if err != nil {
				t.Fatal(err)
			}
			d := policy.Explain(scope.Identity{AppID: "shop"}, scope.Ref{Store: "s", Name: "n"})
			if d.Allowed != tt.allowed {
				t.Errorf("allowed %v: %s", d.Allowed, d.Rule())
			}
		})
	}
}

// TestAliasBomb must end soon: each level of aliases doubles what the document stands for.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec:\n  type: secretstores.x\n  metadata:\n")
	b.WriteString("  - {name: a0, value: &a0 [x, x]}\n")
	for i := 1; i < 60; i++ {
		n, last := string(rune('0'+i/10))+string(rune('0'+i%10)), "a0"
		if i > 1 {
			last = "a" + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10))
		}
		b.WriteString("  - {name: a" + n + ", value: &a" + n + " [*" + last + ", *" + last + "]}\n")
	}
	m, problems := load(t, b.String())
	if len(m.Components) != 0 || !component.HasErrors(problems) {
		t.Errorf("loaded %d components, problems %v", len(m.Components), problems)
	}
}

func FuzzLoad(f *testing.F) {
	archives, _ := filepath.Glob("testdata/bad/*.txtar")
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(file.Data)
		}
	}
	path := filepath.Join(f.TempDir(), "a.yaml")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		m, problems := component.Load(component.Sources{Files: []string{path}, AppID: "a"})
		if _, err := scope.NewPolicy(m.Rules(true)); err != nil {
			t.Errorf("rules are refused: %v", err)
		}
		breaks := regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]") // in YAML
		lines := len(breaks.FindAllIndex(content, -1)) + 1
		for _, p := range problems {
			if p.Line < 0 || p.Line > lines+1 || p.Message == "" || (p.Remedy == "") != (p.Severity == component.Note) {
				t.Errorf("problem %#v", p)
			}
		}
		if len(m.Faulty) > 0 && !component.HasErrors(problems) {
			t.Errorf("faulty without an error: %v", m.Faulty)
		}
	})
}
