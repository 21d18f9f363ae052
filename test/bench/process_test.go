package bench_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server under measurement, in a process of its own.
type process struct {
	pid                 int
	http, grpc, metrics string // host:port
	csi                 string // socket; empty: none
	dir                 string
}

// startAgent runs the agent's release binary with the stores of writeStores, its audit records going to audit (as the
// flag --audit-log says), until the test ends. With volumes it serves CSI, and mounts below <dir>/volumes.
func startAgent(t *testing.T, audit string, volumes bool) *process {
	t.Helper()
	binary := os.Getenv(agentVariable)
	if binary == "" {
		t.Skip(agentVariable + " does not name the agent's binary; make bench sets it")
	}
	p := &process{dir: t.TempDir(), http: freeAddress(t), grpc: freeAddress(t), metrics: freeAddress(t)}
	if volumes {
		p.dir = scratch(t)
		p.csi = filepath.Join(p.dir, "csi.sock")
	}
	writeStores(t, p.dir)
	if audit != "" {
		audit = filepath.Join(p.dir, audit)
	}
	p.run(t, exec.Command(binary, "run", "--app-id", "bench", "--resources-path", filepath.Join(p.dir, "resources"),
		"--http-address", p.http, "--grpc-address", p.grpc, "--metrics-address", p.metrics, "--audit-log", audit,
		"--csi-socket", p.csi, "--state-dir", p.dir, "--target-root", filepath.Join(p.dir, "volumes")))
	p.await(t)
	return p
}

// run starts cmd and ends it with the test.
func (p *process) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	log, err := os.Create(filepath.Join(p.dir, "process.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	// One thread that runs Go code, so that what is measured is work, and not idle threads looking for some.
	cmd.Env = append(os.Environ(), append(cmd.Env, "GOMAXPROCS=1")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s did not end cleanly: %v", filepath.Base(cmd.Path), err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("log of %s:\n%s", filepath.Base(cmd.Path), b)
		}
		_ = log.Close()
	})
}

// await waits until the process answers.
func (p *process) await(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if p.answers() {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("a server did not become ready in 10 s")
		}
	}
}

// answers tells whether every address is served.
func (p *process) answers() bool {
	resp, err := http.Get("http://" + p.http + "/v1.0/healthz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return false
	}
	for _, address := range []string{p.grpc, p.metrics} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		_ = conn.Close()
	}
	return true
}

// cpuTime returns the processor time that all threads of the process have used so far, those that ended included: what
// clock_getcpuclockid(3) names is a clock for that.
func (p *process) cpuTime() (time.Duration, error) {
	const schedulerClock = 2 // CPUCLOCK_SCHED of linux/posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.pid<<3|schedulerClock), &ts); err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", p.pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// scrape returns the values of the named metrics, which have no labels.
func (p *process) scrape(names ...string) ([]float64, error) {
	resp, err := http.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	found := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if f, err := strconv.ParseFloat(value, 64); ok && err == nil {
			found[name] = f
		}
	}
	values := make([]float64, len(names))
	for i, name := range names {
		v, ok := found[name]
		if !ok {
			return nil, errors.New("no metric " + name)
		}
		values[i] = v
	}
	return values, nil
}

// memory returns what /proc/PID/status says of the process's memory, in KiB.
func (p *process) memory() (map[string]int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return nil, err
	}
	sizes := map[string]int{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")); err == nil {
			sizes[name] = n
		}
	}
	return sizes, nil
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
