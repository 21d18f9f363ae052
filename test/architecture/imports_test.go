// Package architecture_test keeps the shape that docs/architecture.md describes: which package may import what, and
// why not.
package architecture_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keywell/keywell/"

// ban forbids an import everywhere but in the packages listed. A path that ends in "/" stands for all below it.
type ban struct {
	imported string
	except   []string // package paths without the module prefix
	reason   string
}

var bans = []ban{
	{"k8s.io/cri-api/", []string{"pkg/cri/", "test/"}, "the container runtime's socket is as good as root: one package speaks to it"},
	{"k8s.io/", []string{"pkg/kube/", "pkg/cri/", "pkg/providers/kubernetes/", "test/"}, "client-go weighs 20 MB and belongs at the edge that talks to the API server"},
	{"github.com/container-storage-interface/", []string{"pkg/csi/", "cmd/agent/", "test/"}, "CSI is one way in; volumes do not know it (cmd/agent is its client in mount and unmount)"},
	{"github.com/dapr/", []string{"pkg/api/", "pkg/providers/daprplugin/", "test/"}, "Dapr's protocol is one way in, or a bridge to plugins"},
	{"google.golang.org/grpc", []string{"pkg/api/", "pkg/csi/", "pkg/kube/", "pkg/cri/", "pkg/providers/", "cmd/agent/", "test/"}, "gRPC codes exist at the edges only"},
	{"github.com/hashicorp/vault/", []string{"pkg/providers/vault/", "test/"}, "an SDK stays in its driver"},
	{"github.com/aws/", []string{"pkg/providers/aws/", "test/"}, "an SDK stays in its driver"},
	{"github.com/Azure/", []string{"pkg/providers/azure/", "test/"}, "an SDK stays in its driver"},
	{"github.com/alibabacloud-go/", []string{"pkg/providers/alibaba/", "test/"}, "an SDK stays in its driver"},
	{"github.com/huaweicloud/", []string{"pkg/providers/huawei/", "test/"}, "an SDK stays in its driver"},
	{"github.com/tencentcloud/", []string{"pkg/providers/tencent/", "test/"}, "an SDK stays in its driver"},
	{"cloud.google.com/", []string{"pkg/providers/gcp/", "test/"}, "an SDK stays in its driver"},
	{"go.yaml.in/yaml/", []string{"pkg/component/", "pkg/volume/", "test/"}, "manifests and volume attributes are the only YAML"},
	{"os/exec", []string{"internal/agenttest/", "internal/docpage/", "test/", "pkg/providers/vault/vaulttest/"}, "the agent starts no process: mounts are syscalls"},
	{"text/template", []string{"pkg/template/"}, "it calls methods by reflection, which keeps every method of every SDK in the binary"},
	{"html/template", nil, "it calls methods by reflection, which keeps every method of every SDK in the binary"},
	{"software.sslmate.com/", []string{"pkg/keystore/"}, "one package knows the formats of key stores, and how to write them the same each time"},
	{"github.com/pavlo-v-chernykh/", []string{"pkg/keystore/"}, "one package knows the formats of key stores, and how to write them the same each time"},
	{module + "cmd/", nil, "main is the top: nothing imports it"},
	{module + "pkg/providers/builtin", []string{"cmd/agent/", "test/"}, "only main knows which drivers there are"},
	{module + "pkg/api", []string{"cmd/agent/", "test/"}, "ways in meet only in main"},
	{module + "pkg/csi", []string{"cmd/agent/", "test/"}, "ways in meet only in main"},
	{module + "pkg/confine", []string{"cmd/agent/"}, "it executes the program again: only main may"},
	{module + "pkg/rotation", []string{"cmd/agent/", "test/"}, "ways in meet only in main"},
}

// leaves may import only these packages of Keywell.
var leaves = map[string][]string{
	"pkg/confine":      {},
	"pkg/secret":       {},
	"pkg/scope":        {},
	"pkg/providers":    {"pkg/secret"},
	"pkg/lease":        {"pkg/providers"},
	"pkg/resolve":      {"pkg/secret", "pkg/scope", "pkg/providers", "pkg/lease"},
	"pkg/keystore":     {},
	"pkg/template":     {"pkg/secret", "pkg/keystore"},
	"pkg/volume":       {"pkg/secret", "pkg/scope", "pkg/providers", "pkg/resolve", "pkg/keystore", "pkg/template", "pkg/volume/mount"},
	"pkg/volume/mount": {},
	"pkg/component":    {"pkg/secret", "pkg/scope"},
	"pkg/identity":     {"pkg/secret", "pkg/scope", "pkg/providers"},
	"pkg/rotation":     {},
	"pkg/watch":        {"pkg/secret", "pkg/scope", "pkg/providers", "pkg/resolve"},
	"pkg/origin":       {"pkg/scope"},
	"pkg/netns":        {},
	"pkg/cri":          {},
	"pkg/localhost":    {"pkg/scope", "pkg/cri", "pkg/netns"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T, args ...string) []goPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-tags", "grpcnotrace", "-json=ImportPath,Imports"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under reports whether path is pattern or, for a pattern that ends in "/", lies below it.
func under(path, pattern string) bool {
	return path == strings.TrimSuffix(pattern, "/") || strings.HasPrefix(path, strings.TrimSuffix(pattern, "/")+"/")
}

func TestForbiddenImports(t *testing.T) {
	all := packages(t, module+"...")
	if len(all) < 10 {
		t.Fatalf("go list found %d packages", len(all))
	}
	for _, p := range all {
		own := strings.TrimPrefix(p.ImportPath, module)
		for _, b := range bans {
			if slices.ContainsFunc(b.except, func(e string) bool { return under(own, e) }) {
				continue
			}
			for _, i := range p.Imports {
				if under(i, b.imported) && !under(p.ImportPath, b.imported) {
					t.Errorf("%s imports %s: %s", own, i, b.reason)
				}
			}
		}
	}
}

func TestLeavesStayLeaves(t *testing.T) {
	all := packages(t, module+"pkg/...")
	found := 0
	for _, p := range all {
		own := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := leaves[own]
		if !ok {
			continue
		}
		found++
		for _, i := range p.Imports {
			if rel, ours := strings.CutPrefix(i, module); ours && !slices.Contains(allowed, rel) {
				t.Errorf("%s imports %s; imports point inwards, and it may use only %v", own, rel, allowed)
			}
		}
	}
	if found != len(leaves) {
		t.Errorf("found %d of the %d packages named here: the list is out of date", found, len(leaves))
	}
}

// TestAgentLinksNoTemplates looks at everything the binary links, not only at our own imports. text/template/parse, which
// pkg/template uses, calls no methods by reflection.
func TestAgentLinksNoTemplates(t *testing.T) {
	for _, p := range packages(t, "-deps", module+"cmd/agent") {
		if p.ImportPath == "text/template" || p.ImportPath == "html/template" {
			t.Errorf("the agent links %s", p.ImportPath)
		}
	}
}
