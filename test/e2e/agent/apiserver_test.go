package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// apiServer is reached through kubectl proxy, which keeps its connection: a kubectl for each question would cost a second
// on a busy machine.
type apiServer struct {
	http  *http.Client
	proxy *exec.Cmd
}

const proxyURL = "http://127.0.0.1:18001"

// startProxy starts kubectl proxy, until stop, which the caller calls unless there is nothing to stop.
func startProxy(ctx context.Context) (*apiServer, error) {
	proxy := node.Command(ctx, "kubectl", "proxy", "--port=18001")
	proxy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should the test end without stop
	if err := proxy.Start(); err != nil {
		return nil, err
	}
	a := &apiServer{
		http:  &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: node.DialContext}},
		proxy: proxy,
	}
	return a, poll(ctx, 30*time.Second, func() error {
		_, err := a.do(ctx, http.MethodGet, "/version", "")
		return err
	})
}

func (a *apiServer) stop() {
	_ = a.proxy.Process.Kill()
	_ = a.proxy.Wait() // says that it was killed
}

// do sends a request and returns the answer's body; a status of 300 and above is an error. Patches are merge patches.
func (a *apiServer) do(ctx context.Context, method, path, body string) ([]byte, error) {
	return a.fetch(ctx, method, proxyURL+path, body)
}

func (a *apiServer) fetch(ctx context.Context, method, url, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := a.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(answer))
	}
	return answer, err
}

// get decodes an object of the API server.
func get[T any](t *testing.T, path string) T {
	t.Helper()
	var object T
	answer, err := kubeAPI.do(t.Context(), http.MethodGet, path, "")
	if err == nil {
		err = json.Unmarshal(answer, &object)
	}
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// patch changes an object of the API server.
func patch(t *testing.T, path, body string) {
	t.Helper()
	if _, err := kubeAPI.do(t.Context(), http.MethodPatch, path, body); err != nil {
		t.Fatal(err)
	}
}

// sample is one of a program's metrics.
type sample struct {
	name  string // with its labels
	value float64
}

func parseMetrics(text []byte) []sample {
	var samples []sample
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
			samples = append(samples, sample{line[:i], v})
		}
	}
	return samples
}

// sum adds up the samples of one name whose labels contain all of labels.
func sum(samples []sample, name string, labels ...string) float64 {
	var total float64
next:
	for _, s := range samples {
		if s.name != name && !strings.HasPrefix(s.name, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(s.name, l) {
				continue next
			}
		}
		total += s.value
	}
	return total
}

// agentMetrics reads the agent's metrics as Prometheus would.
func agentMetrics(t *testing.T) []sample {
	t.Helper()
	text, err := kubeAPI.fetch(t.Context(), http.MethodGet, "http://"+cluster.NodeIP+":3502/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	return parseMetrics(text)
}

// secretReads is how many Secrets the API server has been asked for, by anyone.
func secretReads(t *testing.T) float64 {
	t.Helper()
	text, err := kubeAPI.do(t.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	return sum(parseMetrics(text), "apiserver_request_total", `resource="secrets"`, `verb="GET"`)
}

// poll calls f until it succeeds. After the timeout the error is f's last.
func poll(ctx context.Context, timeout time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", timeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// eventually fails the test unless f succeeds within the timeout, and returns how long it took.
func eventually(t *testing.T, timeout time.Duration, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := poll(t.Context(), timeout, f); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}
