package resolve

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/keywell/keywell/pkg/providers"
)

// kinds lists every providers.Kind.
var kinds = [...]providers.Kind{
	providers.Unknown, providers.NotFound, providers.Denied, providers.Invalid, providers.Unavailable, providers.Throttled,
}

// sourceNames are the values of the result label for reads that got an answer, by source.
var sourceNames = [...]string{fromStore: "fetch", fromCache: "hit", fromNegative: "negative", fromStale: "stale", gaveUp: "cancelled"}

// metrics are the resolver's, by store. The calls that the cache spared the stores are reads minus store calls.
type metrics struct {
	reads   *prometheus.CounterVec
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec

	closed    prometheus.Counter // has no store label: a store that is gone has no label sets
	unaudited prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Resolver) *metrics {
	factory := promauto.With(reg)
	if reg != nil {
		reg.MustRegister(gauges{r})
	}
	return &metrics{
		reads: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_resolve_reads_total",
			Help: "Reads of secrets and listings, by where the answer came from (hit, fetch, stale, negative, cancelled or error_<kind>).",
		}, []string{"store", "result"}),
		calls: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_resolve_store_calls_total",
			Help: "Calls of the store, by outcome (ok or the kind of failure).",
		}, []string{"store", "kind"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keywell_resolve_store_call_seconds",
			Help:    "Duration of calls of the store.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"store"}),
		closed: factory.NewCounter(prometheus.CounterOpts{
			Name: "keywell_resolve_closed_reads_total",
			Help: "Reads of stores that are not in service.",
		}),
		unaudited: factory.NewCounter(prometheus.CounterOpts{
			Name: "keywell_resolve_audit_failures_total",
			Help: "Audit records that could not be written.",
		}),
	}
}

// forget removes a store's label sets.
func (m *metrics) forget(store string) {
	labels := prometheus.Labels{"store": store}
	m.reads.DeletePartialMatch(labels)
	m.calls.DeletePartialMatch(labels)
	m.seconds.DeletePartialMatch(labels)
}

// counters are one store's, looked up once: a read then costs one atomic addition.
type counters struct {
	reads   [len(sourceNames)]prometheus.Counter // by source
	errors  [len(kinds)]prometheus.Counter       // reads that failed, by kind
	answers prometheus.Counter                   // calls that the store answered with content
	calls   [len(kinds)]prometheus.Counter       // calls that failed, by kind
	seconds prometheus.Observer
}

func (m *metrics) of(store string) *counters {
	c := &counters{
		answers: m.calls.WithLabelValues(store, "ok"),
		seconds: m.seconds.WithLabelValues(store),
	}
	for from, name := range sourceNames {
		c.reads[from] = m.reads.WithLabelValues(store, name)
	}
	for _, k := range kinds {
		label := strings.ReplaceAll(k.String(), " ", "_")
		c.errors[k] = m.reads.WithLabelValues(store, "error_"+label)
		c.calls[k] = m.calls.WithLabelValues(store, label)
	}
	return c
}

// read counts a read. A remembered refusal counts as negative, one that the store just gave as an error.
func (c *counters) read(rep reply, err error) {
	if err == nil || rep.from == fromNegative || rep.from == gaveUp {
		c.reads[rep.from].Inc()
		return
	}
	c.errors[known(providers.KindOf(err))].Inc()
}

// called counts a call of the store.
func (c *counters) called(err *providers.Error, took time.Duration) {
	c.seconds.Observe(took.Seconds())
	if err == nil {
		c.answers.Inc()
		return
	}
	c.calls[known(err.Kind)].Inc()
}

// known maps a kind that the contract does not have to Unknown.
func known(k providers.Kind) providers.Kind {
	if int(k) < len(kinds) {
		return k
	}
	return providers.Unknown
}

// gauges reads the state of the installed stores when it is asked for.
type gauges struct{ r *Resolver }

var (
	entriesDesc = prometheus.NewDesc("keywell_resolve_cache_entries", "Cached answers, expired ones included.", []string{"store"}, nil)
	bytesDesc   = prometheus.NewDesc("keywell_resolve_cache_bytes", "Estimated size of the cached answers.", []string{"store"}, nil)
	breakerDesc = prometheus.NewDesc("keywell_resolve_breaker_state", "State of the circuit breaker: 0 closed, 1 half-open, 2 open.", []string{"store"}, nil)
)

// Describe sends the descriptions of all gauges.
func (gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- entriesDesc
	ch <- bytesDesc
	ch <- breakerDesc
}

// Collect sends the gauges of every installed store.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	for name, in := range *g.r.stores.Load() {
		in.mu.Lock()
		entries, bytes := len(in.cache.entries), in.cache.bytes
		in.mu.Unlock()
		ch <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(entries), name)
		ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(bytes), name)
		ch <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, float64(in.limits.gate.state(now)), name)
	}
}
