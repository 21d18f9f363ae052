package bench_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// single is the store that single secrets are read from.
const single = "thousand"

// workload is what a load asks for.
type workload struct{ protocol, what string }

func bulkOf(count int) string { return fmt.Sprintf("bulk of %d", count) }

// workloads are measured in this order. requests is for one round.
var workloads = []struct {
	workload
	requests int
}{
	{workload{"HTTP", "GetSecret"}, 2500},
	{workload{"HTTP", bulkOf(100)}, 750},
	{workload{"HTTP", bulkOf(1000)}, 160},
	{workload{"gRPC", "GetSecret"}, 2000},
	{workload{"gRPC", bulkOf(100)}, 750},
	{workload{"gRPC", bulkOf(1000)}, 160},
}

// loadRounds is how often every server gets its turn.
const loadRounds = 15

// minAPIRatio is the share of the bare server's requests per processor second that an answer from the cache must reach.
const minAPIRatio = 0.8

// reportAPI compares the agent, with audit records and without, to bare servers.
func reportAPI(t *testing.T) []row {
	audited, plain := startAgent(t, "audit.log", false), startAgent(t, "", false)
	known, err := capture(t.Context(), audited)
	if err != nil {
		t.Fatal(err)
	}
	servers := []*process{audited, plain, startFloor(t, &known.answers)}
	var rows []row
	for _, w := range workloads {
		rates := measureLoad(t, servers, w.protocol, known.calls[w.workload], w.requests)
		floor := rates[2]
		name := w.protocol + " " + w.what
		rows = append(rows,
			rates[0].row(name+", audit to a file", floor, 0),
			rates[1].row(name, floor, minAPIRatio))
	}
	return rows
}

// rate is how a server bears a load.
type rate struct {
	perSecond     []float64 // requests per second of the server's processor time, in each round
	allocs, bytes float64   // per request
}

func (r rate) row(name string, floor rate, target float64) row {
	return row{
		name: name, ours: kilo(r.perSecond), floor: kilo(floor.perSecond), ratio: ratio(r.perSecond, floor.perSecond),
		target: target, atLeast: true,
		allocs: beside(r.allocs, floor.allocs), bytes: beside(r.bytes, floor.bytes),
	}
}

func kilo(perSecond []float64) string { return fmt.Sprintf("%.1f k/CPU-s", median(perSecond)/1000) }

// measureLoad puts the same load on all servers in turn.
func measureLoad(t *testing.T, servers []*process, protocol string, calls []call, requests int) []rate {
	t.Helper()
	rates := make([]rate, len(servers))
	clients := make([][]client, len(servers))
	for i, s := range servers {
		clients[i] = connect(t, s, protocol)
		if err := load(t.Context(), clients[i], calls, requests); err != nil { // warms up
			t.Fatal(err)
		}
	}
	for range loadRounds {
		for i, s := range servers {
			if err := rates[i].measureRound(t.Context(), s, clients[i], calls, requests); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range slices.Concat(clients...) {
		_ = c.Close()
	}
	return rates
}

// connect opens the connections of a load.
func connect(t *testing.T, p *process, protocol string) []client {
	t.Helper()
	open, address := newHTTPClient, p.http
	if protocol == "gRPC" {
		open, address = newGRPCClient, p.grpc
	}
	var clients []client
	for range connections {
		c, err := open(address)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	return clients
}

// The Go runtime's counters of heap allocations, and of their bytes.
const (
	allocsMetric = "go_memstats_mallocs_total"
	bytesMetric  = "go_memstats_alloc_bytes_total"
)

// measureRound adds a round.
func (r *rate) measureRound(ctx context.Context, s *process, clients []client, calls []call, requests int) error {
	heap, err := s.scrape(allocsMetric, bytesMetric)
	if err != nil {
		return err
	}
	begun, err := s.cpuTime()
	if err != nil {
		return err
	}
	if err := load(ctx, clients, calls, requests); err != nil {
		return err
	}
	ended, err := s.cpuTime()
	if err != nil {
		return err
	}
	after, err := s.scrape(allocsMetric, bytesMetric)
	if err != nil {
		return err
	}
	n := float64(requests)
	r.perSecond = append(r.perSecond, n/(float64(ended-begun)/float64(time.Second)))
	r.allocs += (after[0] - heap[0]) / n / loadRounds
	r.bytes += (after[1] - heap[1]) / n / loadRounds
	return nil
}
