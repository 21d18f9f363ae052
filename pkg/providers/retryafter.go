package providers

import (
	"net/http"
	"strconv"
	"time"
)

// RetryAfterOf returns what an answer's header Retry-After says, in either of its forms: seconds, or a time by this machine's
// clock. Zero: it says nothing. Source: RFC 9110, section 10.2.3.
func RetryAfterOf(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
