package providertest_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

func TestConformance(t *testing.T) { providertest.Run(t, harness(unbroken)) }

// unbroken is the provider of Memory as it is.
func unbroken(m *providertest.Memory, _ *slog.Logger) providers.Provider { return m.Provider() }

// harness describes Memory, opened with open.
func harness(open func(*providertest.Memory, *slog.Logger) providers.Provider) providertest.Harness {
	return providertest.Harness{
		Open: func(_ *testing.T, log *slog.Logger) providertest.Store {
			m := providertest.NewMemory()
			return providertest.Store{
				Provider: open(m, log),
				Put:      m.Put,
				Delete:   m.Delete,
				PutIn: func(namespace, name string, fields map[string]string) {
					m.PutPayload(namespace, name, providertest.Payload(fields))
				},
				Faults: faults(m),
				Hang:   func() { m.Hang() },
			}
		},
		MultiField:     true,
		Binary:         true,
		Lists:          true,
		PageSize:       pageSize,
		Notifies:       true,
		Compares:       true,
		UnknownVersion: "1000",
		CurrentStage:   providertest.StageCurrent,
		PreviousStage:  providertest.StagePrevious,
		RetryAfter:     3 * time.Second,
	}
}

const pageSize = 3

func faults(m *providertest.Memory) map[providers.Kind]func(string) {
	faults := map[providers.Kind]func(string){}
	for _, kind := range []providers.Kind{providers.NotFound, providers.Denied, providers.Invalid, providers.Unavailable, providers.Throttled} {
		faults[kind] = func(name string) {
			err := providers.Errorf(kind, "made to fail")
			if kind == providers.Throttled {
				err.RetryAfter = 3 * time.Second
			}
			m.FailName(name, err)
		}
	}
	return faults
}
