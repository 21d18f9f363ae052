package volume

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// metrics count what was done; what there is, the Set is asked for.
type metrics struct {
	publishes      *prometheus.CounterVec
	publishSeconds prometheus.Histogram
	rotations      *prometheus.CounterVec
}

func (s *Set) instrument(r prometheus.Registerer) {
	factory := promauto.With(r)
	s.metrics = metrics{
		publishes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_volume_publish_total",
			Help: "Publish calls by result; unchanged ones found their volume correct.",
		}, []string{"result"}),
		publishSeconds: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "keywell_volume_publish_seconds",
			Help:    "Duration of publish calls that made a volume.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
		}),
		rotations: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_volume_rotations_total",
			Help: "Rotations by result.",
		}, []string{"result"}),
	}
	gauge := func(name, help string, of func(*volume) int64) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return s.sum(of) })
	}
	gauge("keywell_volume_published", "Volumes on this node.", func(*volume) int64 { return 1 })
	gauge("keywell_volume_bytes", "Bytes of whole pages that the files of all volumes take.", func(v *volume) int64 { return v.size })
	gauge("keywell_volume_abnormal", "Volumes whose condition is abnormal.", func(v *volume) int64 {
		if v.condition.Abnormal {
			return 1
		}
		return 0
	})
}

func (s *Set) sum(of func(*volume) int64) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var total int64
	for _, v := range s.volumes {
		if v.published {
			total += of(v)
		}
	}
	return float64(total)
}

func (m *metrics) published(begun time.Time, err error) {
	m.publishes.WithLabelValues(publishResult(err)).Inc()
	if err == nil {
		m.publishSeconds.Observe(time.Since(begun).Seconds())
	}
}

// publishResult is the value of a label: what went wrong, in one of few words.
func publishResult(err error) string {
	switch {
	case err == nil:
		return "published"
	case errors.Is(err, context.Canceled), errors.Is(err, ErrUnpublished):
		return "canceled"
	case errors.Is(err, ErrConflict):
		return "conflict"
	case errors.Is(err, ErrTooLarge):
		return "too_large"
	case isDenied(err):
		return "denied"
	}
	if _, ok := errors.AsType[*InvalidError](err); ok {
		return "invalid"
	}
	if _, ok := errors.AsType[*providers.Error](err); ok {
		return "store"
	}
	return "failed"
}

// isDenied tells whether the policy, not the store, refused a read.
func isDenied(err error) bool {
	_, denied := errors.AsType[*scope.DeniedError](err)
	return denied || errors.Is(err, scope.ErrStoreNotFound)
}

func rotationResult(changed bool, err error) string {
	switch {
	case isDenied(err):
		return "denied"
	case err != nil:
		return "failed"
	case changed:
		return "changed"
	default:
		return "unchanged"
	}
}
