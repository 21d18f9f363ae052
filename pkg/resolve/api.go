package resolve

import (
	"errors"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
)

// ErrNotGranted is returned when a zero Grant, or one for another operation, is presented: a bug in the caller.
var ErrNotGranted = errors.New("no grant for this operation")

// ErrStoreClosed is returned for a store that is not installed: unknown, failed to open, or removed.
var ErrStoreClosed = errors.New("store is not open")

// Request is one read.
type Request struct {
	Grant    scope.Grant
	Metadata map[string]string     // the caller's request metadata, selectors aside; other metadata is another answer
	Tokens   providers.TokenSource // the caller's own tokens; may be nil
	// MaxAge is how old an answer may be. Zero: the store's CacheTTL. A volume passes its own refresh interval here, so
	// that volumes with one interval share one read and a shorter interval is still honoured.
	MaxAge time.Duration
	// Fresh asks the store even if a cached answer is young enough (Cache-Control: no-cache). It is still rate-limited,
	// and shares a call with other readers unless that call began earlier: it may have read before the change that this
	// reader is after. A failure is returned rather than a stale answer.
	Fresh bool
	// Own names whoever shall not share what the store issues with others who read the same; a volume's ID, for one that
	// wants credentials of its own. Empty: it is shared. It changes nothing of content that is not issued.
	Own string
	// Origin says on whose behalf, for the audit trail: "api", "volume", "rotation" or "reference".
	Origin string
}

// Result is a payload and how old it is. The payload is shared: it must not be changed.
type Result struct {
	providers.Payload
	FetchedAt time.Time // when the store last confirmed this content
	ExpiresAt time.Time // until when it is served without asking the store again; FetchedAt if Stale
	Stale     bool      // the store failed since; this is the last good content
	// RefreshInterval is the store's default for how often a volume reads again.
	RefreshInterval time.Duration
	Digest          Digest // of names and values of all fields; equal digests mean equal content
}

// Listing is the names in a store and how old they are; see Result for the times.
type Listing struct {
	Names     []string // sorted; shared: they must not be changed
	FetchedAt time.Time
	ExpiresAt time.Time
	Stale     bool
}

// Digest identifies a payload's content within this process. It is keyed with a random key made at start, so that it
// can be shown (as an ETag) without letting anyone test guesses of a short secret against it.
type Digest [16]byte

// Store is a provider with the settings that govern how the resolver treats it.
type Store struct {
	Name     string
	Provider providers.Provider
	Settings Settings
}

// Settings are a store's limits. The zero value of each field stands for the default given beside it.
type Settings struct {
	CacheTTL          time.Duration // how long an answer is fresh; default 1 minute; 1 ns in effect turns the cache off
	RefreshInterval   time.Duration // how often a volume without an interval of its own reads again; default CacheTTL, or 1 minute if that is below 1 s
	NegativeTTL       time.Duration // how long "not found" and "denied" are remembered; default 5 s
	StaleFor          time.Duration // how long after CacheTTL a last good answer may be served while the store fails; default 1 h; negative: never
	RequestTimeout    time.Duration // deadline of one store call; default 10 s
	RequestsPerSecond float64       // token bucket rate; default 100
	Burst             int           // token bucket size; default 200
	MaxEntries        int           // cached secrets of the store; default 10 000
	MaxBytes          int64         // estimated size of all cached answers of the store, overhead included; default 64 MiB
	// PerIdentity keeps one cached answer per namespace and service account, for stores that authorise pods themselves.
	PerIdentity bool
	// PerPod keeps, besides, one for each pod, for stores whose answers may depend on it.
	PerPod bool
}
