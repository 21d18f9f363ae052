package rotation

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Values of the label result.
const (
	resultOK        = "ok"
	resultFailed    = "failed"
	resultCancelled = "cancelled"
)

type metrics struct {
	runs *prometheus.CounterVec
	lag  prometheus.Histogram
}

func (s *Scheduler) instrument(r prometheus.Registerer) {
	factory := promauto.With(r)
	s.metrics = metrics{
		runs: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_rotation_runs_total",
			Help: "Rotations of volumes by result: ok, failed, or cancelled because the volume was removed or the agent stops.",
		}, []string{"result"}),
		lag: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "keywell_rotation_lag_seconds",
			Help:    "Time from when a volume was due or nudged to the end of the rotation that succeeded, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // 1 ms … 262 s
		}),
	}
	gauge := func(name, help string, count func() int) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(count())
		})
	}
	gauge("keywell_rotation_scheduled", "Volumes that are rotated when due or nudged.", func() int { return len(s.entries) })
	gauge("keywell_rotation_failing", "Volumes whose last rotation failed.", func() int { return s.failing })
}
