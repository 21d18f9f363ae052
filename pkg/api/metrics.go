package api

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// operation is what a request asks for, as a metric label and log attribute.
type operation string

const (
	opGet         operation = "get"
	opBulk        operation = "bulk"
	opMetadata    operation = "metadata"
	opSetMetadata operation = "set_metadata"
	opHealth      operation = "health"
	opWatch       operation = "watch" // a stream of events
	opWait        operation = "wait"  // an answer that is held back
	opOther       operation = "other"

	opGetConfiguration operation = "get_configuration"
	opSubscribe        operation = "subscribe"
	opUnsubscribe      operation = "unsubscribe"
)

// The results of requests in metrics and logs, besides the reasons of faults in lower case.
const (
	resultOK              = "ok"
	resultNotModified     = "not_modified"
	resultUnauthenticated = "unauthenticated"
	resultBadRequest      = "bad_request"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	missing  *prometheus.CounterVec

	read sync.Map // reading → *readSeries, for the requests that come most often
}

// reading is what a request asked for that was answered as it should be.
type reading struct {
	protocol string
	op       operation
}

// readSeries are the series that count a reading. Finding them by their labels costs more than counting.
type readSeries struct {
	ok      prometheus.Counter
	seconds prometheus.Observer
}

func newMetrics(r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	return &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_api_requests_total",
			Help: "Requests to the secrets API.",
		}, []string{"protocol", "operation", "result"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keywell_api_request_seconds",
			Help:    "Time to answer a request to the secrets API, without sending the answer.",
			Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10},
		}, []string{"protocol", "operation"}),
		missing: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_api_bulk_left_out_total",
			Help: "Secrets left out of bulk answers because they could not be read.",
		}, []string{"store"}),
	}
}

// lasts reports whether a request takes as long as its caller likes.
func (op operation) lasts() bool { return op == opWatch || op == opWait || op == opSubscribe }

// request records one request.
func (m *metrics) request(protocol string, op operation, result string, took time.Duration) {
	if result == resultOK && (op == opGet || op == opBulk) {
		series := m.seriesOf(reading{protocol, op})
		series.ok.Inc()
		series.seconds.Observe(took.Seconds())
		return
	}
	m.requests.WithLabelValues(protocol, string(op), result).Inc()
	if !op.lasts() {
		m.seconds.WithLabelValues(protocol, string(op)).Observe(took.Seconds())
	}
}

// seriesOf returns the series of a reading. They are made by the first.
func (m *metrics) seriesOf(r reading) *readSeries {
	if series, ok := m.read.Load(r); ok {
		return series.(*readSeries)
	}
	series, _ := m.read.LoadOrStore(r, &readSeries{
		ok:      m.requests.WithLabelValues(r.protocol, string(r.op), resultOK),
		seconds: m.seconds.WithLabelValues(r.protocol, string(r.op)),
	})
	return series.(*readSeries)
}

// leftOut records that n secrets of store are missing from a bulk answer.
func (m *metrics) leftOut(store string, n int) { m.missing.WithLabelValues(store).Add(float64(n)) }

// resultOf returns the result of a request that failed with err, or succeeded.
func resultOf(err error) string {
	if err == nil {
		return resultOK
	}
	return strings.ToLower(asFault(err).reason)
}
