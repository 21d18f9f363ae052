package conformance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
)

// specs is every spec of the suite's Identity and Node services. An empty reason means that the spec must run and
// pass; otherwise it must be skipped, for the reason given. docs/csi-sanity.md is the same table, for readers.
var specs = map[string]string{
	"Identity Service GetPluginCapabilities should return appropriate capabilities": "",
	"Identity Service GetPluginInfo should return appropriate information":          "",
	"Identity Service Probe should return appropriate information":                  "",

	"Node Service NodeGetCapabilities should return appropriate capabilities":                      "",
	"Node Service NodeGetInfo should return appropriate values":                                    "",
	"Node Service NodePublishVolume should fail when no volume id is provided":                     "",
	"Node Service NodePublishVolume should fail when no target path is provided":                   "",
	"Node Service NodePublishVolume should fail when no volume capability is provided":             "",
	"Node Service NodeUnpublishVolume should fail when no volume id is provided":                   "",
	"Node Service NodeUnpublishVolume should fail when no target path is provided":                 "",
	"Node Service NodeUnpublishVolume should remove target path":                                   "",
	"Node Service NodeGetVolumeStats should fail when no volume id is provided":                    "",
	"Node Service NodeGetVolumeStats should fail when no volume path is provided":                  "",
	"Node Service NodeGetVolumeStats should fail when volume is not found":                         "",
	"Node Service NodeGetVolumeStats should fail when volume does not exist on the specified path": "",
	"Node Service NodeGetVolumeHealth should fail when no volume id is provided":                   "",
	"Node Service NodeGetVolumeHealth should return health for a valid volume":                     "",
	"Node Service should work":                                                              "",
	"Node Service should be idempotent":                                                     "",
	"Node Service NodeStageVolume should fail when no volume id is provided":                noStaging,
	"Node Service NodeStageVolume should fail when no staging target path is provided":      noStaging,
	"Node Service NodeStageVolume should fail when no volume capability is provided":        noStaging,
	"Node Service NodeUnstageVolume should fail when no volume id is provided":              noStaging,
	"Node Service NodeUnstageVolume should fail when no staging target path is provided":    noStaging,
	"Node Service NodeExpandVolume should fail when no volume id is provided":               noExpansion,
	"Node Service NodeExpandVolume should fail when no volume path is provided":             noExpansion,
	"Node Service NodeExpandVolume should fail when volume is not found":                    noExpansion,
	"Node Service NodeExpandVolume should work if node-expand is called after node-publish": noExpansion,
	"Node Service NodeGetStorageHealth should return appropriate response":                  noStorageHealth,
	"Node Service NodePublishVolume with single node multi writer capability should fail when volume with " +
		"single node single writer access mode is already mounted at a different target path": noMultiWriter,
}

const (
	noStaging       = "nothing to stage: a volume is made where it is published"
	noExpansion     = "the size of an ephemeral volume is an attribute of the pod and does not change"
	noStorageHealth = "stores have no health in the CSI sense; a volume whose store fails is reported by NodeGetVolumeHealth"
	noMultiWriter   = "the pod can only read, so there are no writers to count"
)

// secretValue is in every volume that the suite publishes, and must not be in the log.
const secretValue = "c4n4ry-v4lu3"

func TestSanity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: volumes are mounted")
	}
	dir, err := os.MkdirTemp("", "sanity") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pods := filepath.Join(dir, "pods")
	if err := os.MkdirAll(filepath.Join(pods, podUID), 0o755); err != nil {
		t.Fatal(err)
	}
	agent := startAgent(t, filepath.Join(dir, "csi.sock"), filepath.Join(dir, "state"), pods)

	config := sanity.NewTestConfig()
	config.Address = agent.socket
	config.DialOptions = append(config.DialOptions, asKubelet())
	config.TargetPath = filepath.Join(pods, podUID, "volumes")
	config.StagingPath = filepath.Join(pods, "staging")

	got := run(t, &config)

	want := map[string]types.SpecState{}
	for name, reason := range specs {
		want[name] = types.SpecStatePassed
		if reason != "" {
			want[name] = types.SpecStateSkipped
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	if ids := agent.volumes.IDs(); len(ids) != 0 {
		t.Errorf("volumes were left: %v", ids)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts were left in %s (error %v)", dir, err)
	}
	if strings.Contains(agent.log.String(), secretValue) {
		t.Error("the log holds the secret's value")
	}
	if !strings.Contains(agent.log.String(), "NodePublishVolume") {
		t.Error("the log is empty: the check for the secret's value says nothing")
	}
}

// TestDocumented keeps docs/csi-sanity.md the same as the table above.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/csi-sanity.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| "+identityService) || strings.HasPrefix(line, "| "+nodeService) {
			got = append(got, strings.TrimSpace(line))
		}
	}
	var want []string
	for name, reason := range specs {
		outcome := "runs"
		if reason != "" {
			outcome = "skipped: " + reason
		}
		want = append(want, fmt.Sprintf("| %s | %s |", name, outcome))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// run runs the suite's Identity and Node specs and returns what became of each: full name → state. Specs of other
// services (Controller, GroupController, Snapshot Metadata) are not a node's and are left out by name.
func run(t *testing.T, config *sanity.TestConfig) map[string]types.SpecState {
	t.Helper()
	sc := sanity.GinkgoTest(config)
	defer sc.Finalize()
	outcomes := map[string]types.SpecState{}
	ginkgo.ReportAfterSuite("outcomes", func(report ginkgo.Report) {
		for _, spec := range report.SpecReports {
			if name := spec.FullText(); spec.LeafNodeType == types.NodeTypeIt && ours(name) {
				outcomes[name] = spec.State
			}
		}
	})
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.FocusStrings = []string{identityService, nodeService}
	reporter.Succinct, reporter.NoColor = true, true
	ginkgo.RunSpecs(t, "CSI sanity", suite, reporter)
	return outcomes
}

const (
	identityService = "Identity Service"
	nodeService     = "Node Service"
)

func ours(name string) bool {
	return strings.HasPrefix(name, identityService) || strings.HasPrefix(name, nodeService)
}
