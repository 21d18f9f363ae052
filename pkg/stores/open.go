package stores

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/secret"
)

// problem is why a store is not as wanted.
type problem struct {
	component.Problem
	passing    bool          // it may pass while the manifests stay as they are
	retryAfter time.Duration // how long the store asked to be left alone
}

// fault returns a problem of the manifest, which stays until the manifest changes.
func fault(at component.Position, field, message, remedy string) *problem {
	return &problem{Problem: component.Problem{
		Position: at, Severity: component.Error, Field: field, Message: message, Remedy: remedy,
	}}
}

// open brings st into service as its manifest says, unless it is already, in which case it touches nothing. refresh is
// how long its references are good for; zero: for ever.
func (s *Set) open(ctx context.Context, st *store) (opened bool, refresh time.Duration, p *problem) {
	c := st.wanted
	driver, p := driverFor(c, s.drivers)
	if p != nil {
		return false, 0, p
	}
	properties, refresh, p := s.resolve(ctx, c)
	if p != nil {
		return false, 0, p
	}
	settings, p := settingsOf(c, properties)
	if p != nil {
		return false, 0, p
	}
	settings.PerIdentity = driver.PerIdentity
	if now := st.inService; now != nil && now.driver == driver.Type && maps.EqualFunc(now.properties, properties, secret.Value.Equal) {
		return false, refresh, nil
	}
	cfg := providers.Config{Name: c.Name, Properties: maps.Clone(properties), Logger: s.opts.Logger.With("store", c.Name)}
	provider, err := openProvider(ctx, driver, cfg, c.InitTimeout)
	if err != nil {
		return false, 0, openFailed(c, err)
	}
	s.opts.Resolver.Install(resolve.Store{Name: c.Name, Provider: provider, Settings: settings})
	st.inService = &instance{
		driver: driver.Type, properties: properties,
		multiple: driver.MultipleKeyValues != nil && driver.MultipleKeyValues(cfg),
	}
	return true, refresh, nil
}

// openProvider opens within timeout. As in Dapr, a driver that returns after its time has failed.
func openProvider(ctx context.Context, driver providers.Driver, cfg providers.Config, timeout time.Duration) (providers.Provider, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	provider, err := driver.Open(ctx, cfg)
	if err == nil && ctx.Err() != nil {
		_ = provider.Close() // it was never in service
		return nil, ctx.Err()
	}
	return provider, err
}

func openFailed(c component.Component, err error) *problem {
	p := fault(c.Position, "", fmt.Sprintf("open store %q: %v", c.Name, err), "correct the manifest")
	switch providers.KindOf(err) {
	case providers.Invalid, providers.NotFound:
	case providers.Denied:
		p.Remedy = "correct the credentials, or the rights of their owner"
	default:
		p.passing, p.retryAfter = true, providers.RetryAfter(err)
		p.Remedy = "check that the store can be reached; it is tried again by itself"
	}
	return p
}

// driverFor returns the driver of c's type.
func driverFor(c component.Component, drivers map[string]providers.Driver) (providers.Driver, *problem) {
	driver, ok := drivers[c.Type]
	if ok {
		return driver, nil
	}
	types := slices.Sorted(maps.Keys(drivers))
	remedy := "write a type that this agent has: " + strings.Join(types, ", ")
	if near, ok := component.Nearest(c.Type, types); ok {
		remedy = fmt.Sprintf("write %q", near)
	}
	return driver, fault(c.Position, "spec.type",
		fmt.Sprintf("couldn't find secret store %s/%s", c.Type, cmp.Or(c.Version, "v1")), remedy)
}
