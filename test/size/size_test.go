// Package size_test compares what the agent weighs with sizes.txt: its binary, with and without the drivers that bring an
// SDK, and its memory when it is idle.
//
// One import can double both: whatever calls methods by reflection with names that the linker can't know (text/template,
// for instance) makes it keep every method of every SDK. Such a change shows here, and so does a new SDK; if it is meant,
// go test ./test/size -update writes the file again.
package size_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write sizes.txt again")

const recorded = "sizes.txt"

// limits of all drivers together, whatever is recorded.
const (
	maxIdle      = 40 << 20
	growBinary   = 1.05 // by how much a binary may grow before it has to be recorded
	growResident = 1.15 // memory is measured, with some noise
)

// variants are build tags that leave drivers out.
var variants = []string{
	"", "no_alibaba", "no_aws", "no_azure", "no_conjur", "no_gcp", "no_huawei", "no_tencent", "no_vault",
	"no_alibaba,no_aws,no_azure,no_conjur,no_gcp,no_huawei,no_tencent,no_vault",
}

func TestSizes(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("sizes.txt is for linux/amd64")
	}
	var lines []string
	found := map[string]int64{}
	note := func(name string, size int64) {
		found[name] = size
		lines = append(lines, fmt.Sprintf("%-76s %10d", name, size))
	}
	dir := t.TempDir()
	for i, without := range variants {
		program := filepath.Join(dir, strconv.Itoa(i))
		note("binary "+label(without), build(t, program, without))
		if without == "" || strings.Contains(without, ",") {
			resident, anonymous := idle(t, program)
			note("idle "+label(without), resident)
			note("idle, anonymous "+label(without), anonymous)
		}
	}
	if resident := found["idle with all drivers"]; resident > maxIdle {
		t.Errorf("the idle agent takes %d bytes of memory, more than %d", resident, maxIdle)
	}
	if *update {
		header := "# What the agent weighs, in bytes. Written by go test ./test/size -update, compared by go test ./test/size.\n"
		if err := os.WriteFile(recorded, []byte(header+strings.Join(lines, "\n")+"\n"), 0o644); err != nil { //nolint:gosec // not secret
			t.Fatal(err)
		}
		return
	}
	compare(t, found)
}

func label(without string) string {
	if without == "" {
		return "with all drivers"
	}
	return "with " + without
}

// compare fails for what has grown, or is not recorded.
func compare(t *testing.T, found map[string]int64) {
	t.Helper()
	was := read(t)
	for name, size := range found {
		grow := growBinary
		if strings.HasPrefix(name, "idle") {
			grow = growResident
		}
		switch before, ok := was[name]; {
		case !ok:
			t.Errorf("%s: not in %s; write it again with -update", name, recorded)
		case float64(size) > float64(before)*grow:
			t.Errorf("%s: %d bytes, %d are recorded; find out why, and write the file again with -update if it is meant", name, size, before)
		case float64(size)*grow*grow < float64(before):
			t.Errorf("%s: %d bytes, only; %d are recorded: write the file again with -update", name, size, before)
		}
	}
}

func read(t *testing.T) map[string]int64 {
	t.Helper()
	b, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		if i := strings.LastIndexByte(strings.TrimSpace(line), ' '); i > 0 && line[0] != '#' {
			n, err := strconv.ParseInt(strings.TrimSpace(line[i:]), 10, 64)
			if err != nil {
				t.Fatalf("%s: %q", recorded, line)
			}
			sizes[strings.TrimSpace(line[:i])] = n
		}
	}
	return sizes
}

// build builds the agent as make build does, and returns its size.
func build(t *testing.T, program, without string) int64 {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-tags", strings.Trim("grpcnotrace,"+without, ","), "-ldflags", "-s -w", "-o", program, "../../cmd/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

const manifest = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: local}
spec: {type: secretstores.local.env, version: v1}
`

// idle runs the agent with one local store and returns its resident memory, and what of it is not the program file.
func idle(t *testing.T, program string) (resident, anonymous int64) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "local.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "size") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	cmd := exec.Command(program, "run", "--resources-path", dir, "--csi-socket", "", "--metrics-address", "", "--unix-domain-socket", sockets, "--audit-log", "")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	read := func() { ask(t, filepath.Join(sockets, "dapr-keywell-http.socket")) }
	read()
	<-time.After(2 * time.Second) // what starting needed is given back by then
	return status(t, cmd.Process.Pid, "VmRSS"), status(t, cmd.Process.Pid, "RssAnon")
}

// ask waits until the API answers for the store.
func ask(t *testing.T, socket string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	for end := time.Now().Add(30 * time.Second); ; {
		resp, err := client.Get("http://agent/v1.0/secrets/local/HOME")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the agent does not serve: %v, %v", resp, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// status returns a line of /proc/PID/status, in bytes.
func status(t *testing.T, pid int, name string) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
