package bench_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// The effort of one comparison in this process: rounds in which each operation runs for about roundTime. There are many
// short ones, because the median then passes over those that something else on the machine got in the way of.
const (
	rounds    = 101
	roundTime = 3 * time.Millisecond
)

// operation is something that is measured. It fails if what it did is wrong.
type operation func() error

// cost is what one run of an operation takes.
type cost struct {
	times  []time.Duration // in each round
	allocs float64         // heap allocations
	bytes  float64         // allocated on the heap
}

// time is the median over the rounds.
func (c cost) time() time.Duration { return median(c.times) }

// compare measures operations in turn, so that whatever else the machine does meets all of them alike.
func compare(t testing.TB, operations ...operation) []cost {
	t.Helper()
	costs := make([]cost, len(operations))
	runs := make([]int, len(operations)) // in one round
	for i, op := range operations {
		runs[i] = calibrate(t, op)
	}
	for range rounds {
		for i, op := range operations {
			took, allocs, bytes := repeat(t, runs[i], op)
			c, n := &costs[i], runs[i]
			c.times = append(c.times, took/time.Duration(n))
			c.allocs += float64(allocs) / float64(n) / rounds
			c.bytes += float64(bytes) / float64(n) / rounds
		}
	}
	return costs
}

// calibrate warms op up and returns how often it runs in roundTime.
func calibrate(t testing.TB, op operation) int {
	t.Helper()
	const warmUp = 3
	repeat(t, warmUp, op)
	took, _, _ := repeat(t, warmUp, op)
	return max(1, int(roundTime*warmUp/max(took, 1)))
}

// repeat runs op n times.
func repeat(t testing.TB, n int, op operation) (took time.Duration, allocs, bytes uint64) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := time.Now()
	for range n {
		if err := op(); err != nil {
			t.Fatal(err)
		}
	}
	took = time.Since(begun)
	runtime.ReadMemStats(&after)
	return took, after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
}

// ratio is the median over the rounds of ours by floor, each in one round: whatever made a round slow made both slow.
func ratio[T time.Duration | float64](ours, floor []T) float64 {
	all := make([]float64, len(ours))
	for i := range ours {
		all[i] = float64(ours[i]) / float64(floor[i])
	}
	return median(all)
}

func median[T float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// micros shows a duration in microseconds.
func micros(d time.Duration) string {
	us := float64(d) / float64(time.Microsecond)
	if us < 100 {
		return fmt.Sprintf("%.1f µs", us)
	}
	return fmt.Sprintf("%.0f µs", us)
}
