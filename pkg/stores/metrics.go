package stores

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are labelled with the store's name; there are as many as components.
type metrics struct {
	open     *prometheus.GaugeVec
	attempts *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) metrics {
	factory := promauto.With(r)
	return metrics{
		open: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keywell_stores_open", Help: "Whether the store is in service.",
		}, []string{"store"}),
		attempts: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_stores_attempts_total", Help: "Attempts to bring the store into the wanted state, those that found it so left out.",
		}, []string{"store", "result"}),
	}
}

// tried notes the outcome of an attempt.
func (m metrics) tried(st *store, opened bool) {
	name := st.wanted.Key()
	inService := 0.0
	if st.inService != nil {
		inService = 1
	}
	m.open.WithLabelValues(name).Set(inService)
	switch {
	case opened:
		m.attempts.WithLabelValues(name, "opened").Inc()
	case st.problem != nil:
		m.attempts.WithLabelValues(name, "failed").Inc()
	}
}

func (m metrics) forget(store string) {
	m.open.DeleteLabelValues(store)
	m.attempts.DeletePartialMatch(prometheus.Labels{"store": store})
}
