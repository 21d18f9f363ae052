package rotation_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/rotation"
)

const benchVolumes = 10_000

func benchScheduler(b *testing.B, rotate func(context.Context, string) (time.Time, error)) (*rotation.Scheduler, []string) {
	b.Helper()
	s, err := rotation.New(rotation.Options{Rotate: rotate})
	if err != nil {
		b.Fatal(err)
	}
	ids := make([]string, benchVolumes)
	for i := range ids {
		ids[i] = fmt.Sprintf("csi-%064x", i)
		s.Add(ids[i], time.Now().Add(time.Hour))
	}
	return s, ids
}

// BenchmarkRotation is what one rotation costs beside the work of rotating: nudged, taken, run by a worker and put back
// among 10 000 others.
func BenchmarkRotation(b *testing.B) {
	rotated := make(chan struct{})
	s, ids := benchScheduler(b, func(context.Context, string) (time.Time, error) {
		rotated <- struct{}{}
		return time.Now().Add(time.Hour), nil
	})
	go func() { _ = s.Run(b.Context()) }()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Nudge(ids[i%benchVolumes])
		<-rotated
		i++
	}
}

// BenchmarkMove is what a new due time costs among 10 000.
func BenchmarkMove(b *testing.B) {
	s, ids := benchScheduler(b, func(context.Context, string) (time.Time, error) { return time.Time{}, nil })
	due := time.Now().Add(time.Hour)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Add(ids[i%benchVolumes], due)
		i++
	}
}
