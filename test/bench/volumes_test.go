package bench_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// The targets for volumes.
const (
	maxPublishRatio = 2 // at 10 files
	maxRepublish    = 50 * time.Microsecond
)

// sizes are the numbers of files in the volumes that are measured.
var sizes = []int{1, 10, 100}

// reportVolumes compares what a volume takes to what the same files take without an agent.
func reportVolumes(t *testing.T) []row {
	n := newNode(t)
	var publishing, republishing, rotating []row
	for _, count := range sizes {
		v, floor := n.volumeOf(count), newBareFiles(n.dir, count)
		costs := compare(t, v.cycle, floor.cycle)
		publish := volumeRow("publish and unpublish", count, costs[0], costs[1])
		if count == 10 {
			publish.target = maxPublishRatio
		}
		publishing = append(publishing, publish)

		prepare(t, v, floor)
		alone := compare(t, v.publish)[0]
		republish := volumeRow("republish, unchanged", count, alone, cost{})
		republish.limit, republish.within = "≤ "+micros(maxRepublish), alone.time <= maxRepublish
		republishing = append(republishing, republish,
			volumeRow("rotate, unchanged", count, compare(t, v.rotateUnchanged)[0], cost{}))
		costs = compare(t, v.rotateChanged, floor.rewrite)
		rotating = append(rotating, volumeRow("rotate, one secret changed", count, costs[0], costs[1]))
		finish(t, v, floor)
	}
	v, floor, client := n.volumeOf(10), newBareFiles(n.dir, 10), n.serve(t)
	costs := compare(t, func() error {
		if _, err := client.NodePublishVolume(context.Background(), v.publishing); err != nil {
			return err
		}
		_, err := client.NodeUnpublishVolume(context.Background(), v.unpublishing)
		return err
	}, floor.cycle)
	publishing = append(publishing, volumeRow("publish and unpublish, through the socket", 10, costs[0], costs[1]))
	return append(append(publishing, republishing...), rotating...)
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

// volumeRow shows costs; a floor that takes no time is none.
func volumeRow(name string, count int, ours, floor cost) row {
	r := row{
		name: fmt.Sprintf("%s, %d %s", name, count, plural(count, "file")), ours: micros(ours.time),
		allocs: beside(ours.allocs, floor.allocs), bytes: beside(ours.bytes, floor.bytes),
	}
	if floor.time > 0 {
		r.floor, r.ratio = micros(floor.time), float64(ours.time)/float64(floor.time)
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

// each runs a benchmark for volumes of all sizes.
func each(b *testing.B, measure func(*testing.B, *mountedVolume, *bareFiles)) {
	n := newNode(b)
	for _, count := range sizes {
		b.Run(fmt.Sprint(count), func(b *testing.B) { measure(b, n.volumeOf(count), newBareFiles(n.dir, count)) })
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
