package bench_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The targets for volumes.
const (
	maxPublishRatio = 2 // at 10 files
	maxRepublish    = 50 * time.Microsecond
)

// shapes are the volumes that are measured.
var shapes = []shape{{1, 1}, {1, 10}, {10, 1}, {10, 10}}

// reportVolumes compares what a volume takes to what the same files take without an agent.
func reportVolumes(t *testing.T) []row {
	n := newNode(t, false)
	var publishing, republishing, rotating []row
	for _, s := range shapes {
		v, floor := n.volumeOf(s), newBareFiles(n.dir, s.files())
		costs := compare(t, v.cycle, floor.cycle)
		publishing = append(publishing, volumeRow("publish and unpublish", s, costs[0], costs[1]))

		prepare(t, v, floor)
		alone := compare(t, v.publish)[0]
		republish := volumeRow("republish, unchanged", s, alone, cost{})
		republish.limit, republish.within = "≤ "+micros(maxRepublish), alone.time() <= maxRepublish
		republishing = append(republishing, republish)
		alone = compare(t, v.rotateUnchanged)[0]
		costs = compare(t, v.rotateChanged, floor.rewrite)
		rotating = append(rotating, volumeRow("rotate, unchanged", s, alone, cost{}),
			volumeRow("rotate, one secret changed", s, costs[0], costs[1]))
		finish(t, v, floor)
	}
	for i, s := range shapes {
		if s.files() == 10 {
			publishing[i].target = maxPublishRatio
		}
	}
	publishing = append(publishing, reportAudited(t), reportSocket(t, n))
	return slices.Concat(publishing, republishing, rotating)
}

// reportAudited measures with audit records.
func reportAudited(t *testing.T) row {
	n, s := newNode(t, true), shape{10, 1}
	costs := compare(t, n.volumeOf(s).cycle, newBareFiles(n.dir, s.files()).cycle)
	return volumeRow("the same with audit to a file", s, costs[0], costs[1])
}

// reportSocket measures as the kubelet does it, through the socket.
func reportSocket(t *testing.T, n *node) row {
	s := shape{1, 10}
	v, client := n.volumeOf(s), n.serve(t)
	costs := compare(t, func() error {
		if _, err := client.NodePublishVolume(context.Background(), v.publishing); err != nil {
			return err
		}
		_, err := client.NodeUnpublishVolume(context.Background(), v.unpublishing)
		return err
	}, newBareFiles(n.dir, s.files()).cycle)
	return volumeRow("the same through the socket", s, costs[0], costs[1])
}

// prepare publishes a volume and its floor.
func prepare(t testing.TB, v *mountedVolume, floor *bareFiles) {
	t.Helper()
	for _, do := range []operation{v.publish, v.check, floor.publish} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
}

// finish verifies a volume and unpublishes it and its floor.
func finish(t testing.TB, v *mountedVolume, floor *bareFiles) {
	t.Helper()
	for _, do := range []operation{v.check, v.unpublish, floor.unpublish} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(v.publishing.GetTargetPath()); !os.IsNotExist(err) {
		t.Fatalf("the target is still there: %v", err)
	}
}

// volumeRow shows costs. The zero floor is none.
func volumeRow(name string, s shape, ours, floor cost) row {
	r := row{
		name: fmt.Sprintf("%s: %v", name, s), ours: micros(ours.time()),
		allocs: beside(ours.allocs, floor.allocs), bytes: beside(ours.bytes, floor.bytes),
	}
	if floor.times != nil {
		r.floor, r.ratio = micros(floor.time()), ratio(ours.times, floor.times)
	}
	return r
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// The same as Go benchmarks.

func BenchmarkPublish(b *testing.B) {
	each(b, func(b *testing.B, v *mountedVolume, floor *bareFiles) {
		run(b, "agent", v.cycle)
		run(b, "floor", floor.cycle)
	})
}

func BenchmarkRepublish(b *testing.B) {
	each(b, func(b *testing.B, v *mountedVolume, floor *bareFiles) {
		prepare(b, v, floor)
		defer finish(b, v, floor)
		run(b, "agent", v.publish)
	})
}

func BenchmarkRotate(b *testing.B) {
	each(b, func(b *testing.B, v *mountedVolume, floor *bareFiles) {
		prepare(b, v, floor)
		defer finish(b, v, floor)
		run(b, "unchanged/agent", v.rotateUnchanged)
		run(b, "changed/agent", v.rotateChanged)
		run(b, "changed/floor", floor.rewrite)
	})
}

// each runs a benchmark for volumes of all shapes.
func each(b *testing.B, measure func(*testing.B, *mountedVolume, *bareFiles)) {
	n := newNode(b, false)
	for _, s := range shapes {
		b.Run(strings.ReplaceAll(s.String(), " ", "-"), func(b *testing.B) {
			measure(b, n.volumeOf(s), newBareFiles(n.dir, s.files()))
		})
	}
}

func run(b *testing.B, name string, op operation) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := op(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
