package localhost

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sys/unix"

	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/netns"
)

type metrics struct {
	pods    prometheus.Gauge
	results *prometheus.CounterVec
	found   prometheus.Histogram
	took    prometheus.Histogram
	delay   prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) metrics {
	with := promauto.With(r)
	buckets := prometheus.ExponentialBuckets(.00025, 2, 14) // 250 µs to 2 s
	return metrics{
		pods: with.NewGauge(prometheus.GaugeOpts{
			Name: "keywell_localhost_pods",
			Help: "Pods that have the API on localhost.",
		}),
		results: with.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_localhost_attempts_total",
			Help: "Attempts to give a pod the API on localhost, by result: ok, host_network, port_taken, refused (the pod's own wishes forbid it), gone, failed.",
		}, []string{"result"}),
		found: with.NewHistogram(prometheus.HistogramOpts{
			Name: "keywell_localhost_find_seconds", Buckets: buckets,
			Help: "Time in which the container runtime says where a pod's network namespace is.",
		}),
		took: with.NewHistogram(prometheus.HistogramOpts{
			Name: "keywell_localhost_listen_seconds", Buckets: buckets,
			Help: "Time to find a pod's network namespace and to listen there.",
		}),
		delay: with.NewHistogram(prometheus.HistogramOpts{
			Name: "keywell_localhost_delay_seconds", Buckets: buckets,
			Help: "Time from the container runtime's announcement of a sandbox until its pod has the API on localhost.",
		}),
	}
}

// listening counts a pod that has its listeners now. Its sandbox was announced at since, or before the agent ran.
func (m metrics) listening(began, since time.Time) {
	m.pods.Inc()
	m.results.WithLabelValues("ok").Inc()
	m.took.Observe(time.Since(began).Seconds())
	if !since.IsZero() {
		m.delay.Observe(time.Since(since).Seconds())
	}
}

func (m metrics) failed(err error) {
	result := "failed"
	_, against := errors.AsType[againstError](err)
	switch {
	case against:
		result = "refused"
	case errors.Is(err, cri.ErrHostNetwork), errors.Is(err, netns.ErrOwn):
		result = "host_network"
	case errors.Is(err, unix.EADDRINUSE):
		result = "port_taken"
	case gone(err):
		result = "gone"
	}
	m.results.WithLabelValues(result).Inc()
}
