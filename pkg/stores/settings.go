package stores

import (
	"strconv"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
)

// setting is one metadata name that Keywell adds to every store. Dapr ignores it.
type setting struct {
	name   string
	remedy string
	set    func(*resolve.Settings, string) bool // false: the text is no value for it
}

// settings returns the metadata names that govern how the resolver treats a store; see resolve.Settings for what they
// mean. Zero has to be told from "not set", so the ones for which it makes sense map it to a value that works like it.
func settings() []setting {
	const duration = "write a duration such as 30s"
	return []setting{
		{"refreshInterval", duration, func(s *resolve.Settings, v string) bool { return setDuration(&s.RefreshInterval, v, 0) }},
		{"cacheTTL", duration + ", or 0s for no cache", func(s *resolve.Settings, v string) bool { return setDuration(&s.CacheTTL, v, 1) }},
		{"negativeTTL", duration + ", or 0s for never", func(s *resolve.Settings, v string) bool { return setDuration(&s.NegativeTTL, v, 1) }},
		{"staleFor", duration + ", or 0s for never", func(s *resolve.Settings, v string) bool { return setDuration(&s.StaleFor, v, -1) }},
		{"requestTimeout", duration, func(s *resolve.Settings, v string) bool { return setDuration(&s.RequestTimeout, v, 0) }},
		{"requestsPerSecond", "write a number above 0", func(s *resolve.Settings, v string) bool {
			n, err := strconv.ParseFloat(v, 64)
			s.RequestsPerSecond = n
			return err == nil && n > 0 && n <= maxRate
		}},
		{"burst", "write a whole number above 0", func(s *resolve.Settings, v string) bool {
			n, err := strconv.Atoi(v)
			s.Burst = n
			return err == nil && n > 0
		}},
		{"maxEntries", "write a whole number above 0", func(s *resolve.Settings, v string) bool {
			n, err := strconv.Atoi(v)
			s.MaxEntries = n
			return err == nil && n > 0
		}},
		{"maxBytes", "write a whole number of bytes above 0", func(s *resolve.Settings, v string) bool {
			n, err := strconv.ParseInt(v, 10, 64)
			s.MaxBytes = n
			return err == nil && n > 0
		}},
	}
}

// maxRate is more requests per second than any store serves; it keeps infinity out.
const maxRate = 1e6

// setDuration parses a positive duration. Zero is refused unless zero, the value that stands for it, is not 0.
func setDuration(d *time.Duration, text string, zero time.Duration) bool {
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 || (v == 0 && zero == 0) {
		return false
	}
	if v == 0 {
		v = zero
	}
	*d = v
	return true
}

// settingsOf reads the settings of c from its resolved properties. An empty value counts as not set.
func settingsOf(c component.Component, properties providers.Properties) (resolve.Settings, *problem) {
	var all resolve.Settings
	for _, st := range settings() {
		value := properties[strings.ToLower(st.name)]
		if value.Len() > 0 && !st.set(&all, string(value.Reveal())) {
			return resolve.Settings{}, st.fault(positionOf(c, st.name))
		}
	}
	return all, nil
}

// fault does not quote the value, which may have come from a secret.
func (s setting) fault(at component.Position) *problem {
	return fault(at, s.name, "has a value that does not work", s.remedy)
}

// positionOf returns where the metadata name is written in c.
func positionOf(c component.Component, name string) component.Position {
	for _, item := range c.Metadata {
		if strings.EqualFold(item.Name, name) {
			return item.Position
		}
	}
	return c.Position
}
