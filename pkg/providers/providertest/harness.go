package providertest

import (
	"log/slog"
	"testing"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// Harness describes one configuration of a driver to Run. The zero value of each optional field means that the store
// lacks the capability, and the suite asserts that the provider refuses it or does not claim it.
//
// The suite uses secret and field names of lower-case letters, digits and dashes.
type Harness struct {
	// Open makes an empty store and opens a provider for it, with log as its logger. It is called once per case and
	// cleans up with t.Cleanup. Required.
	Open func(t *testing.T, log *slog.Logger) Store

	MultiField bool // a secret may have several fields; otherwise Put gets one, named as the secret
	Binary     bool // a value may be any bytes; otherwise it is UTF-8 without NUL
	NoEmpty    bool // the store has no empty values
	MaxValue   int  // size of the largest value that is tried, in bytes; default 64 KiB
	Lists      bool // the provider is a Lister
	PageSize   int  // names per page of a listing; the suite lists more than two pages. Default 2
	Notifies   bool // the provider is a Notifier

	// UnknownVersion is a well-formed version id that no secret of the store has. Empty: versions can't be asked for.
	UnknownVersion string
	// VersionsUntold says that the store tells the version of an answer only if a version was asked for.
	VersionsUntold bool
	// CurrentStage and PreviousStage are the stages of the newest version and the one before. Empty: no stages.
	CurrentStage, PreviousStage string
	// Compares says that the provider answers a Query whose Known is the store's version with Unchanged.
	Compares bool
	// RetryAfter is what the store says when it throttles.
	RetryAfter time.Duration
	// Patience is how long a call or a notification may take before it counts as hanging. Default 10 s.
	Patience time.Duration
}

// Store is one store that belongs to one case, and the provider that is tested against it. The functions write to the
// store by another way than the provider; they are called from the test's goroutine and end the test if they fail.
type Store struct {
	Provider providers.Provider
	// Put creates a secret or replaces it (field name → value) and returns the version id that its payload must carry,
	// or "" if payloads have none. Required.
	Put func(name string, fields map[string]string) (version string)
	// Delete removes a secret. Required.
	Delete func(name string)
	// PutIn is Put in a namespace other than the default. Nil: the store has no namespaces.
	PutIn func(namespace, name string, fields map[string]string)
	// Faults make reads of an existing secret fail in the way that must be reported as the kind.
	Faults map[providers.Kind]func(name string)
	// Hang makes every later read wait until its context ends. Nil: the store can't be made to.
	Hang func()
}

func (h Harness) withDefaults() Harness {
	if h.MaxValue == 0 {
		h.MaxValue = 64 << 10
	}
	if h.PageSize == 0 {
		h.PageSize = 2
	}
	if h.Patience == 0 {
		h.Patience = 10 * time.Second
	}
	return h
}
