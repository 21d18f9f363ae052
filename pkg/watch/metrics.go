package watch

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The kinds of updates in metrics.
const (
	updateContent = "content"
	updateStale   = "stale" // only that the content is, or no longer is
	updateFailure = "failure"
)

type metrics struct{ updates *prometheus.CounterVec }

func newMetrics(r prometheus.Registerer, h *Hub) *metrics {
	factory := promauto.With(r)
	gauge := func(name, help string, value func() int) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(value())
		})
	}
	gauge("keywell_watch_subscriptions", "Subscriptions to changes of secrets.", func() int { return len(h.subs) })
	gauge("keywell_watch_secrets", "Watched secrets, counted for each subscription to them.", func() int { return h.watched })
	gauge("keywell_watch_topics", "Distinct secrets and listings that are read again for subscriptions.", func() int { return h.topics })
	return &metrics{updates: factory.NewCounterVec(prometheus.CounterOpts{
		Name: "keywell_watch_updates_total",
		Help: "Updates that subscriptions took, by kind: content, stale, failure.",
	}, []string{"kind"})}
}

// told counts updates.
func (m *metrics) told(updates []Update) {
	for _, u := range updates {
		kind := updateContent
		switch {
		case u.Err != nil:
			kind = updateFailure
		case u.Result == nil:
			kind = updateStale
		}
		m.updates.WithLabelValues(kind).Inc()
	}
}
