package api

import (
	"fmt"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/baggage"
)

// untraced is the traceparent of an answer to a request without one.
const untraced = "00-00000000000000000000000000000000-0000000000000000-00"

var untracedHeader = []string{untraced} // shared by headers, which net/http only reads

// setTrace gives an answer the trace headers that Dapr gives it: traceparent and baggage are those of the request. The
// error, for an invalid baggage, is meant for the caller; like Dapr's, that answer has neither.
func setTrace(answer, request http.Header) error {
	if sent := request["Baggage"]; len(sent) > 0 {
		joined := strings.Join(sent, ",")
		if _, err := baggage.Parse(joined); err != nil {
			return fmt.Errorf("invalid baggage header: %w", err)
		}
		answer["Baggage"] = []string{joined}
	}
	answer["Traceparent"] = untracedHeader
	if parent := request.Get("Traceparent"); isTraceparent(parent) {
		answer["Traceparent"] = []string{parent}
	}
	return nil
}

// isTraceparent reports whether s is version 00 of the header (W3C Trace Context, section 3.2), with ids that are not
// all zero.
func isTraceparent(s string) bool {
	if len(s) != len(untraced) || s[:3] != "00-" || s[:36] == untraced[:36] || s[36:52] == untraced[36:52] {
		return false
	}
	for i := range len(s) {
		hex := s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f'
		if !hex && (s[i] != '-' || untraced[i] != '-') {
			return false
		}
	}
	return s[35] == '-' && s[52] == '-'
}
