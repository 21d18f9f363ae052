package conjur

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// dynamicPrefix begins the IDs of variables of which each read makes a new secret. Source: app/models/issuer.rb of
// cyberark/conjur.
const dynamicPrefix = "data/dynamic/"

func isDynamic(name string) bool { return strings.HasPrefix(name, dynamicPrefix) }

// lifeOfIssued returns how long a dynamic secret is valid, by its member ttl; zero: it does not say.
func lifeOfIssued(value secret.Value) time.Duration {
	var issued struct {
		TTL int64 `json:"ttl"` // seconds
	}
	_ = json.Unmarshal(value.Reveal(), &issued) // something else says nothing
	return time.Duration(issued.TTL) * time.Second
}

// Renew says that there is nothing to renew: what Conjur issues has no lease.
func (s *store) Renew(context.Context, providers.Query, providers.Lease) (providers.Lease, error) {
	return providers.Lease{}, providers.Errorf(providers.NotFound, "Conjur gives no leases")
}

// Revoke does nothing: what Conjur issues ends by itself.
func (s *store) Revoke(context.Context, providers.Query, providers.Lease) error { return nil }
