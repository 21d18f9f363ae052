package rotation_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keywell/keywell/pkg/rotation"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		s, _ := scheduler(t, rotation.Options{Registerer: registry}, func(ctx context.Context, id string, run int) (time.Time, error) {
			switch {
			case id == "bad", id == "flaky" && run == 1:
				return time.Time{}, errors.New("store is down")
			case id == "removed":
				<-ctx.Done()
			}
			return time.Now().Add(time.Hour), nil
		})
		for _, id := range []string{"good", "bad", "flaky", "removed"} {
			s.Add(id, time.Now())
		}
		time.Sleep(1100 * time.Millisecond) // one retry of each that failed
		synctest.Wait()
		s.Remove("removed")
		synctest.Wait()
		want := `
			# HELP keywell_rotation_failing Volumes whose last rotation failed.
			# TYPE keywell_rotation_failing gauge
			keywell_rotation_failing 1
			# HELP keywell_rotation_runs_total Rotations of volumes by result: ok, failed, or cancelled because the volume was removed or the agent stops.
			# TYPE keywell_rotation_runs_total counter
			keywell_rotation_runs_total{result="cancelled"} 1
			keywell_rotation_runs_total{result="failed"} 3
			keywell_rotation_runs_total{result="ok"} 2
			# HELP keywell_rotation_scheduled Volumes that are rotated when due or nudged.
			# TYPE keywell_rotation_scheduled gauge
			keywell_rotation_scheduled 3
		`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
			"keywell_rotation_failing", "keywell_rotation_runs_total", "keywell_rotation_scheduled"); err != nil {
			t.Error(err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "keywell_rotation_lag_seconds" {
				continue
			}
			// The good one at once, the flaky one after its first pause.
			h := f.GetMetric()[0].GetHistogram()
			if h.GetSampleCount() != 2 || h.GetSampleSum() < 0.5 || h.GetSampleSum() > 1 {
				t.Errorf("lag of the two that succeeded: %v", h)
			}
		}

		s.Remove("bad")
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
			# HELP keywell_rotation_failing Volumes whose last rotation failed.
			# TYPE keywell_rotation_failing gauge
			keywell_rotation_failing 0
		`), "keywell_rotation_failing"); err != nil {
			t.Error(err)
		}
	})
}

func TestNew(t *testing.T) {
	if _, err := rotation.New(rotation.Options{}); err == nil {
		t.Error("New accepts Options without Rotate")
	}
}
