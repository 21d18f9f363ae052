package bench_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// filesPerVolume is the size of the volumes that memory is measured with.
const filesPerVolume = 10

// maxIdle is the target for the agent's resident memory without volumes, in KiB.
const maxIdle = 30 << 10

// reportMemory measures the agent's memory with more and more volumes.
func reportMemory(t *testing.T) []row {
	p := startAgent(t, "audit.log", true)
	client := dialNode(t, p.csi)
	var volumes []string
	t.Cleanup(func() {
		for _, target := range volumes {
			if _, err := client.NodeUnpublishVolume(context.Background(), unpublish(target)); err != nil {
				t.Error(err)
			}
		}
	})
	var rows []row
	for _, count := range []int{0, 100, 500} {
		for len(volumes) < count {
			target := filepath.Join(p.dir, "volumes", fmt.Sprint("volume-", len(volumes)))
			if _, err := client.NodePublishVolume(t.Context(), publish(target, single, secretNames(filesPerVolume))); err != nil {
				t.Fatal(err)
			}
			volumes = append(volumes, target)
		}
		rows = append(rows, memoryRows(t, p, volumes)...)
	}
	return rows
}

// atRest returns the memory that a process takes once that has not changed for a while.
func atRest(t *testing.T, p *process) map[string]int {
	t.Helper()
	before := 0
	for {
		now, err := memoryOf(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		if now["VmRSS"] == before {
			return now
		}
		before = now["VmRSS"]
		time.Sleep(500 * time.Millisecond)
	}
}

// memoryRows shows what the process takes with the volumes that it has now.
func memoryRows(t *testing.T, p *process, volumes []string) []row {
	t.Helper()
	sizes := atRest(t, p)
	goroutines, err := p.scrape("go_goroutines")
	if err != nil {
		t.Fatal(err)
	}
	var files int64
	for _, target := range volumes {
		var st unix.Statfs_t
		if err := unix.Statfs(target, &st); err != nil {
			t.Fatal(err)
		}
		if st.Type != unix.TMPFS_MAGIC || st.Files-st.Ffree < filesPerVolume {
			t.Fatalf("%s is not a volume with %d files", target, filesPerVolume)
		}
		files += int64(st.Blocks-st.Bfree) * st.Bsize
	}
	name := fmt.Sprintf(" with %d volumes", len(volumes))
	resident := row{name: "resident" + name, ours: mebi(sizes["VmRSS"])}
	if len(volumes) == 0 {
		resident.limit, resident.within = "≤ "+mebi(maxIdle), sizes["VmRSS"] <= maxIdle
	}
	return []row{
		resident,
		{name: "of it anonymous (not the program file)" + name, ours: mebi(sizes["RssAnon"])},
		{name: "files on tmpfs" + name, ours: mebi(int(files >> 10))},
		{name: "goroutines" + name, ours: fmt.Sprint(goroutines[0])},
	}
}

func mebi(kib int) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }

// publish asks for a volume.
func publish(target, store, secrets string) *csipb.NodePublishVolumeRequest {
	return &csipb.NodePublishVolumeRequest{
		VolumeId: target, TargetPath: target, Readonly: true,
		VolumeCapability: &csipb.VolumeCapability{
			AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{}},
			AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{"store": store, "secrets": secrets},
	}
}

func unpublish(target string) *csipb.NodeUnpublishVolumeRequest {
	return &csipb.NodeUnpublishVolumeRequest{VolumeId: target, TargetPath: target}
}
