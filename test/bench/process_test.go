package bench_test

import (
	"bufio"
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

	"github.com/keywell/keywell/internal/agenttest"
)

// process is a server under measurement, in a process of its own.
type process struct {
	*agenttest.Process
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
	p := &process{dir: t.TempDir(), http: agenttest.FreeAddress(t), grpc: agenttest.FreeAddress(t), metrics: agenttest.FreeAddress(t)}
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
	return p
}

// run starts cmd, ends it with the test, and waits until it answers.
func (p *process) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	// One thread that runs Go code, so that what is measured is work, and not idle threads looking for some.
	cmd.Env = append(os.Environ(), append(cmd.Env, "GOMAXPROCS=1")...)
	p.Process = agenttest.Start(t, cmd, filepath.Join(p.dir, "process.log"))
	p.Until("it answers", p.answers)
}

// answers tells whether every address is served.
func (p *process) answers() bool {
	if !agenttest.Healthy(http.DefaultClient, "http://"+p.http) {
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
	if err := unix.ClockGettime(int32(^p.PID()<<3|schedulerClock), &ts); err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", p.PID(), err)
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

// memoryOf returns what /proc/PID/status says of a process's memory, in KiB.
func memoryOf(pid int) (map[string]int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
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
